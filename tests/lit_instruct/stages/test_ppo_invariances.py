"""What must not change an update of PPO, and what an update must not change; all in float32.

Elsewhere: micro-batches and the first ratio, which is exactly 1 in bfloat16 too, in `test_ppo.py`; one and two
processes in `test_two_processes.py`; single roles in `tests/lit_instruct/models/test_roles.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.functional import pad

from data_modules import PromptDataModule
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.collect import Collector
from lit_instruct.ppo.objective import ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOMemoryOptions, PPOOptimizerOptions, RewardOptions
from lit_instruct.ppo.update import Updater
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.text import Response, TextGenerator
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder
from tests.lit_instruct.stages.helpers import Files, assert_equal, plain_trainer, sentence, write_rows

LORAS = [LoraOptions(top_layers=2), None]
Step = tuple[dict[str, Tensor], dict[str, float]]
"""Gradients of an optimizer step before they are clipped, and its losses."""
Train = Callable[..., list[Step]]


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Folder of an SFT stage with a reward stage beside it."""
    run = tmp_path_factory.mktemp("run")
    reward_folder(run / "rm", sft_folder(run / "sft", tiny_model))
    return run / "sft"


@pytest.fixture
def train(tmp_path: Path, sft: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> Train:
    """One iteration of two optimizer steps; returns both."""

    def run(lora: LoraOptions | None, path: Path = files.ppo, micro_batch_size: int = 8) -> list[Step]:
        steps: list[Step] = []
        gradients: list[dict[str, Tensor]] = []
        clip, step = Updater.clip_gradients, Updater.step

        def keep_gradients(updater: Updater, *given: Any) -> Any:
            gradients.append({n: p.grad.clone() for n, p in updater.roles.named_parameters() if p.grad is not None})
            return clip(updater, *given)

        def keep_losses(updater: Updater, *given: Any) -> Any:
            found = step(updater, *given)
            steps.append((gradients[-1], found.losses))
            return found

        with monkeypatch.context() as watched:
            watched.setattr(Updater, "clip_gradients", keep_gradients)
            watched.setattr(Updater, "step", keep_losses)
            module = module_of(sft, lora, ObjectiveOptions(minibatches=1, inner_epochs=2), 1, micro_batch_size)
            data = PromptDataModule(str(path), validation_share=0.0, batch_size=8)
            plain_trainer(tmp_path, max_epochs=-1).fit(module, data)
        return steps

    return run


def module_of(
    sft: Path, lora: LoraOptions | None, objective: ObjectiveOptions, iterations: int = 1, micro_batch_size: int = 8
) -> PPOModule:
    """PPO on the SFT and the reward stage of a run."""
    return PPOModule(
        str(sft),
        iterations,
        lora,
        objective,
        reward=RewardOptions(str(sft.parent / "rm")),
        value=ValueOptions(learning_rate=1e-2),
        optimizer=PPOOptimizerOptions(learning_rate=1e-2, warmup_iterations=0),
        memory=PPOMemoryOptions(micro_batch_size=micro_batch_size),
        sampling=SamplingOptions(max_new_tokens=6),
        dtype="float32",
    )


def assert_same(one: list[Step], other: list[Step]) -> None:
    """Compares gradients and losses of every step."""
    assert len(one) == len(other) == 2
    for (gradients, losses), (other_gradients, other_losses) in zip(one, other, strict=True):
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        assert_equal(gradients, other_gradients, 1e-4 * largest)
        norms = {name for name in losses if name.startswith("grad_norm/")}
        assert _only(losses, norms) == pytest.approx(_only(other_losses, norms), rel=1e-5)
        assert _only(losses, losses.keys() - norms) == pytest.approx(
            _only(other_losses, losses.keys() - norms), abs=1e-5
        )


def _only(figures: dict[str, float], names: set[str]) -> dict[str, float]:
    return {name: figures[name] for name in names}


@pytest.mark.parametrize("lora", LORAS, ids=["lora", "full"])
@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 4)])
def test_padding_on_either_side(
    train: Train, monkeypatch: pytest.MonkeyPatch, lora: LoraOptions | None, left: int, right: int
) -> None:
    plain = train(lora)
    join = Collector.join

    def wider(collector: Collector, batch: Any, responses: Any, rows: Any) -> tuple[Tensor, ...]:
        input_ids, mask, prompt_length, response_mask = join(collector, batch, responses, rows)
        return (
            pad(input_ids, (left, right), value=collector.prompter.pad_id),
            pad(mask, (left, right)),
            prompt_length + left,  # the column in which responses start
            pad(response_mask, (0, right)),
        )

    monkeypatch.setattr(Collector, "join", wider)
    assert_same(plain, train(lora))


@pytest.mark.parametrize("lora", LORAS, ids=["lora", "full"])
def test_order_of_rows(train: Train, monkeypatch: pytest.MonkeyPatch, lora: LoraOptions | None) -> None:
    plain = train(lora, micro_batch_size=3)
    collate = PromptDataModule.collate
    order = [5, 0, 7, 3, 1, 6, 2, 4]
    monkeypatch.setattr(PromptDataModule, "collate", lambda data, items: collate(data, [items[i] for i in order]))
    assert_same(plain, train(lora, micro_batch_size=3))


@pytest.mark.parametrize("lora", LORAS, ids=["lora", "full"])
def test_prompts_of_very_unequal_lengths_side_by_side(tmp_path: Path, train: Train, lora: LoraOptions | None) -> None:
    draw = random.Random(0)
    prompts = [{"prompt": sentence(draw, words, words)} for words in (1, 60, 2, 30, 1, 90, 3, 10)]
    path = write_rows(tmp_path / "uneven.jsonl", prompts)
    assert_same(train(lora, path, micro_batch_size=1), train(lora, path, micro_batch_size=8))


class Snapshot(Callback):
    """Keeps the weights that training begins with."""

    before: dict[str, Tensor]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Copies them."""
        self.before = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}


@pytest.mark.parametrize("lora", LORAS, ids=["lora", "full"])
def test_training_changes_policy_and_value_alone(
    tmp_path: Path, sft: Path, files: Files, lora: LoraOptions | None
) -> None:
    snapshot = Snapshot()
    module = module_of(sft, lora, ObjectiveOptions(minibatches=2, inner_epochs=2), iterations=2)
    data = PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=8)
    plain_trainer(tmp_path, max_epochs=-1, callbacks=[snapshot]).fit(module, data)
    after = module.state_dict()
    assert after.keys() == snapshot.before.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, snapshot.before[name])}
    trained = {id(p) for role in ("policy", "value") for p in module.roles.parameters_of(role)}
    ours = {name for name, p in module.named_parameters(remove_duplicate=False) if id(p) in trained}
    assert changed <= ours
    assert len(changed) > len(ours) / 2
    for role in ("policy", "value"):
        parts = {id(p) for p in module.roles.parameters_of(role)}
        assert any(id(p) in parts for name, p in module.named_parameters() if name in changed)


@pytest.mark.parametrize("lora", LORAS, ids=["lora", "full"])
def test_the_reference_is_the_sft_model_after_training_too(
    tmp_path: Path, sft: Path, files: Files, lora: LoraOptions | None
) -> None:
    module = module_of(sft, lora, ObjectiveOptions(minibatches=2, inner_epochs=2), iterations=3)
    data = PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=8)
    plain_trainer(tmp_path, max_epochs=-1).fit(module, data)
    batch = data.collate([data.train_dataset[row] for row in range(4)])
    responses = [[30, 31, 32], [33], [34, 35, module.prompter.eos_id], [36, 37]]
    [rollout] = module.collector.score(batch, responses, [range(4)])
    plain = TextGenerator.from_source(str(sft), dtype="float32")
    prompts = [row.prompt for row in batch.rows]
    expected = plain.log_probs(prompts, [Response(ids, "", False) for ids in responses])
    assert rollout.reference_log_probs.sum(dim=1).tolist() == pytest.approx(expected, abs=1e-4)
    assert rollout.log_probs.sum(dim=1).tolist() != pytest.approx(expected, abs=1e-2)
