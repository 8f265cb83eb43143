"""The first iterations of PPO in which only the value function learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from data_modules import PromptDataModule
from lit_instruct.errors import UserError
from lit_instruct.models.assemble import ValueKind
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOOptimizerOptions, RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import Files, plain_trainer

LETTERS = "tests.lit_instruct.stages.rewards.letters"


class Weights(Callback):
    """Weights of both roles, and the figures, at the start and after each iteration."""

    def __init__(self) -> None:
        self.policy: list[list[Tensor]] = []
        self.value: list[list[Tensor]] = []
        self.figures: list[dict[str, float]] = []

    def on_train_start(self, trainer: Any, module: Any) -> None:
        for role, kept in (("policy", self.policy), ("value", self.value)):
            kept.append([p.detach().clone() for p in module.roles.parameters_of(role)])

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.on_train_start(trainer, module)
        self.figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def changed(before: list[Tensor], after: list[Tensor]) -> bool:
    return not all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("lora", "start"),
    [(LoraOptions(top_layers=2), "zero_head"), (LoraOptions(top_layers=2), "policy_trunk"), (None, "zero_head")],
    ids=["LoRA", "one network", "all weights"],
)
def test_the_policy_waits_while_the_value_function_learns(
    tmp_path: Path, files: Files, tiny_model: Path, lora: LoraOptions | None, start: ValueKind
) -> None:
    module = PPOModule(
        str(tiny_model),
        iterations=3,
        lora=lora,
        objective=ObjectiveOptions(minibatches=2),
        kl=KLOptions(0.5, target=0.01, gain=0.5),
        reward=RewardOptions(None, LETTERS),
        value=ValueOptions(start, learning_rate=1e-2, warmup_iterations=2),
        optimizer=PPOOptimizerOptions(learning_rate=1e-2, warmup_iterations=10, weight_decay=0.1),
        sampling=SamplingOptions(max_new_tokens=6),
        dtype="float32",
    )
    seen = Weights()
    data = PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=8)
    plain_trainer(tmp_path, callbacks=[seen], max_epochs=-1).fit(module, data)
    assert [changed(*pair) for pair in zip(seen.policy, seen.policy[1:], strict=False)] == [False, False, True]
    assert [changed(*pair) for pair in zip(seen.value, seen.value[1:], strict=False)] == [True, True, True]
    # The policy's learning rate and the KL coefficient wait too.
    assert [row["ppo/learning_rate"] for row in seen.figures] == pytest.approx([1e-3, 1e-3, 1.9e-3])
    assert [row["ppo/kl_coef"] for row in seen.figures] == [0.5, 0.5, 0.5]
    assert module.kl.coef == pytest.approx(0.45)


def test_a_policy_that_never_learns_is_refused() -> None:
    with pytest.raises(UserError, match=r"--model.value.warmup_iterations=3: the policy would never learn"):
        PPOModule(iterations=3, value=ValueOptions(warmup_iterations=3))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"--model.value.warmup_iterations=-1: must be at least 0"):
        ValueOptions(warmup_iterations=-1)
    with pytest.raises(UserError, match=r"--model.objective.dual_clip=1.1: must be above 1 \+ clip_range = 1.2"):
        ObjectiveOptions(dual_clip=1.1)
