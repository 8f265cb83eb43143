"""NaN and inf in rewards, losses and gradients are named and saved, and skip the step or end the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor

import lit_instruct.ppo.update as ppo_update
from data_modules import PromptDataModule
from lit_instruct.batches import PromptBatch
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.objective import ObjectiveOptions
from lit_instruct.ppo.options import PPOMemoryOptions, PPOOptimizerOptions, RewardOptions, SelectionOptions
from lit_instruct.ppo.update import Updater
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import Files, fit, plain_trainer
from tests.lit_instruct.stages.test_ppo import LETTERS, train

REWARDS = "tests.lit_instruct.stages.rewards"
NINTH = f"{REWARDS}.not_a_number_for_the_ninth"
SKIP = PPOOptimizerOptions(learning_rate=1e-2, warmup_iterations=0, on_non_finite="skip")
OBJECTIVE = ObjectiveOptions(minibatches=2)
MEMORY = PPOMemoryOptions(micro_batch_size=3)


class Weights(Callback):
    """Keeps the trained weights before every iteration, and its prompts."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []
        self.prompts: list[list[str]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: PromptBatch, *_: Any) -> None:
        """Copies them."""
        self.weights.append([p.detach().clone() for p in module.parameters() if p.requires_grad])
        self.prompts.append([row.prompt for row in batch.rows])


def skipping(
    folder: Path, files: Files, base: Path, function: str, normalize: bool = False
) -> tuple[PPOModule, Weights]:
    """Five iterations that skip steps with NaN or inf."""
    module = PPOModule(
        str(base),
        5,
        LoraOptions(top_layers=2),
        OBJECTIVE,
        reward=RewardOptions(None, function, normalize=normalize),
        optimizer=SKIP,
        memory=MEMORY,
        sampling=SamplingOptions(max_new_tokens=6),
        dtype="float32",
    )
    seen = Weights()
    data = PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=8)
    plain_trainer(folder, callbacks=[seen], max_epochs=-1).fit(module, data)
    seen.weights.append([p.detach().clone() for p in module.parameters() if p.requires_grad])
    return module, seen


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether all weights are bitwise equal."""
    return all(map(torch.equal, one, other))


def test_an_iteration_with_a_reward_that_is_no_number_is_skipped(
    tmp_path: Path, files: Files, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module, seen = skipping(tmp_path, files, tiny_model, NINTH, normalize=True)
    bad = [any(prompt.endswith(" 9") for prompt in prompts) for prompts in seen.prompts]
    assert True in bad
    assert False in bad
    assert [same(*pair) for pair in zip(seen.weights, seen.weights[1:], strict=False)] == bad
    assert all(torch.tensor(weights).isfinite().all() for weights in module.targets.score_moments)
    first = bad.index(True)
    row = next(i for i, prompt in enumerate(seen.prompts[first]) if prompt.endswith(" 9"))
    assert f"iteration {first + 1}: reward/main is nan for row {row} of the batch (prompt " in caplog.text
    assert "PPO: " not in caplog.text  # no diagnosis from figures that are NaN
    folders = sorted(path.name for path in (tmp_path / "non_finite").iterdir())
    assert folders == [f"iteration-{i + 1}" for i, skipped in enumerate(bad) if skipped]
    saved = json.loads((tmp_path / "non_finite" / folders[0] / "episodes.json").read_text())
    assert saved["wrong"] == ["reward/main is nan"]
    assert [episode["score"] == "nan" for episode in saved["episodes"]].count(True) == 1
    assert any("9" in episode["prompt"] for episode in saved["episodes"] if episode["score"] == "nan")


@pytest.fixture
def broken_loss(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the policy loss of one micro-batch infinite, counted from the start."""

    def at(number: int) -> None:
        loss, calls = ppo_update.clipped_policy_loss, iter(range(10_000))

        def broken(log_probs: Tensor, *more: Any) -> Any:
            value, clipped = loss(log_probs, *more)
            return (value * float("inf") if next(calls) == number else value), clipped

        monkeypatch.setattr(ppo_update, "clipped_policy_loss", broken)

    return at


def test_a_step_with_an_infinite_loss_is_skipped_and_the_others_are_not(
    tmp_path: Path, files: Files, tiny_model: Path, broken_loss: Any
) -> None:
    broken_loss(5)  # two micro-batches per step, two steps per iteration: the first step of the second iteration
    stepped: list[bool] = []
    update = Updater.step

    def step(self: Updater, *given: Any) -> Any:
        before = [p.detach().clone() for p in self.roles.parameters() if p.requires_grad]
        found = update(self, *given)
        stepped.append(not same(before, [p for p in self.roles.parameters() if p.requires_grad]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updater, "step", step)
        more = {"iterations": 3, "objective": OBJECTIVE, "optimizer": SKIP}
        trained, rows = train(tmp_path, files, tiny_model, more)
    assert stepped == [True, True, False, True, True, True]
    assert [row["ppo/skipped_steps"] for row in rows] == [0.0, 1.0, 0.0]
    assert trained.global_step == 6  # a skipped one counts, or schedules and samples would shift
    tensors = load_file(tmp_path / "non_finite/iteration-2/episodes.safetensors")
    wanted = {
        "input_ids",
        "response_mask",
        "log_probs",
        "reference_log_probs",
        "values",
        "scores",
        "advantages",
        "returns",
    }
    assert {f"{name}.0" for name in wanted} <= tensors.keys()
    assert tensors["advantages.0"].shape == tensors["log_probs.0"].shape
    assert sum(len(value) for name, value in tensors.items() if name.startswith("scores.")) == 4
    wrong = json.loads((tmp_path / "non_finite/iteration-2/episodes.json").read_text())["wrong"]
    assert any(text.startswith("loss/policy is") for text in wrong)
    assert any(text.startswith("the gradient of the policy is") for text in wrong)


def test_stop_ends_the_iteration_leaves_a_checkpoint_and_can_go_on(
    tmp_path: Path, files: Files, trained: Path, broken_loss: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    start = [f"--model.base={trained / 'sft'}", f"--model.reward.model={trained / 'rm'}"]
    broken_loss(6)  # 8 episodes in two steps of two micro-batches
    assert fit("ppo", tmp_path, files, *start) == 2
    error = capsys.readouterr().err
    assert error.count("lit-instruct: error: iteration 2, step 2: ") == 1
    assert "--model.optimizer.on_non_finite=skip" in error
    assert "Traceback" not in error
    saved = torch.load(tmp_path / "ppo/checkpoints/last.ckpt", weights_only=True)
    assert saved["ppo"]["iterations_done"] == 2
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())
    assert (tmp_path / "ppo/non_finite/iteration-2/episodes.safetensors").is_file()
    assert not (tmp_path / "ppo/stage.json").exists()
    assert fit("ppo", tmp_path, files, *start, "--ckpt_path=last", "--model.optimizer.on_non_finite=skip") == 0
    assert json.loads((tmp_path / "ppo/stage.json").read_text())["metrics"]["ppo/iteration"] == 4.0


@pytest.mark.parametrize("last", [False, True], ids=["amid", "in the last iteration"])
def test_a_trainer_without_our_callbacks_stops_too(
    tmp_path: Path, files: Files, tiny_model: Path, broken_loss: Any, last: bool
) -> None:
    broken_loss(5 if last else 1)
    with pytest.raises(UserError, match=r"iteration \d, step 1: loss/policy is "):
        train(tmp_path, files, tiny_model, {"iterations": 2, "objective": OBJECTIVE})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises_for_the_ninth", "it raised ValueError: nine (row "),
        ("not_a_number_for_the_ninth", "reward/main is nan"),
    ],
)
def test_a_reward_function_that_fails_names_the_row_and_leaves_a_checkpoint(
    tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str], files: Files, function: str, message: str
) -> None:
    start = [f"--model.base={trained / 'sft'}", f"--model.reward.function={REWARDS}.{function}"]
    assert fit("ppo", tmp_path, files, *start) == 2
    error = capsys.readouterr().err
    assert message in error
    assert " 9', response " in error
    assert error.count("lit-instruct: error: ") == 1
    checkpoint = tmp_path / "ppo/checkpoints/last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    assert 1 <= saved["ppo"]["iterations_done"] < 4
    mended = [*start[:1], f"--model.reward.function={LETTERS}", "--ckpt_path=last"]
    assert fit("ppo", tmp_path, files, *mended) == 0


def test_a_labeler_that_fails_in_validation_is_named(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    module = PPOModule(
        str(tiny_model),
        reward=RewardOptions(None, LETTERS),
        selection=SelectionOptions(labeler=f"{REWARDS}.not_a_number"),
        dtype="float32",
    )
    data = PromptDataModule(str(files.ppo), str(files.ppo_validation))
    with pytest.raises(UserError, match="not_a_number: it returned nan for row 2"):
        plain_trainer(tmp_path).validate(module, data, verbose=False)
