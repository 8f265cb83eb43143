"""NaN and inf in SFT and reward model are named and skip the step or end the run; none is ever handed over."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import Tensor

from data_modules import PromptResponseDataModule
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.stages.options import OptimizerOptions
from lit_instruct.stages.sft import SFTModule
from lit_instruct.trl_bridge import RankedRewardTrainer, sft_loss
from tests.lit_instruct.stages.helpers import (
    Files,
    demonstrations,
    fit,
    plain_trainer,
    snapshot,
    weights,
    write_rows,
)

Break = Callable[[int], None]


@pytest.fixture
def broken_loss(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Makes the loss of one batch NaN, counted from the start of the process's next training."""

    def at(number: int) -> None:
        calls = iter(range(10_000))
        ranked = RankedRewardTrainer.compute_loss

        def factor() -> float:
            return float("nan") if next(calls) == number else 1.0

        def of_sft(*given: Any) -> Tensor:
            return sft_loss(*given) * factor()

        def of_ranked(self: Any, model: Any, batch: Any, outputs: bool = False, *more: Any, **named: Any) -> Any:
            loss, ranking = ranked(self, model, batch, True, *more)
            return loss * factor(), ranking

        monkeypatch.setattr("lit_instruct.stages.sft.sft_loss", of_sft)
        monkeypatch.setattr(RankedRewardTrainer, "compute_loss", of_ranked)

    return at


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_stop_leaves_the_earlier_result_and_a_checkpoint(
    run_folder: Path, files: Files, tiny_model: Path, broken_loss: Break, capsys: Any, stage: str
) -> None:
    folder = run_folder / stage
    start = [f"--model.base={tiny_model if stage == 'sft' else run_folder / 'sft'}"]
    before = snapshot(folder, results_only=True)
    broken_loss(2)
    assert fit(stage, run_folder, files, *start) == 2
    message = (
        f"lit-instruct: error: step 3: train/loss is nan, the gradient is nan; its rows are in "
        f"{folder}/non_finite/step-3; the step was not taken; lower "
        "--model.optimizer.learning_rate, or skip such steps with --model.optimizer.on_non_finite=skip"
    )
    assert message in capsys.readouterr().err.splitlines()
    assert snapshot(folder, results_only=True) == before
    saved = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())
    rows = json.loads((folder / "non_finite/step-3/batch.json").read_text())
    tensors = load_file(folder / "non_finite/step-3/batch.safetensors")
    assert rows["wrong"] == ["train/loss is nan", "the gradient is nan"] and "<|im_start|>user" in rows["rows"][0]
    assert len(rows["rows"]) == len(tensors["input_ids.0"])
    assert fit(stage, run_folder, files, *start, "--ckpt_path=last") == 0


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_skip_hands_over_finite_weights_and_valid_json(
    tmp_path: Path, trained: Path, files: Files, tiny_model: Path, broken_loss: Break, caplog: Any, stage: str
) -> None:
    start = [f"--model.base={tiny_model if stage == 'sft' else trained / 'sft'}"]
    broken_loss(2)
    assert fit(stage, tmp_path, files, *start, "--model.optimizer.on_non_finite=skip") == 0
    saved = tmp_path / stage / "non_finite/step-3"
    what = f"step 3: train/loss is nan, the gradient is nan; its rows are in {saved}; the step is skipped"
    assert what in caplog.text and (saved / "batch.safetensors").is_file()
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / stage).values())

    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads((tmp_path / stage / "stage.json").read_text(), parse_constant=refuse)


class Weights(Callback):
    """Keeps the trained weights before every batch."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
        """Copies them."""
        self.seen.append([p.detach().clone() for p in module.parameters() if p.requires_grad])


def train(folder: Path, model: Path, action: Any, seen: Weights, **options: Any) -> SFTModule:
    """Twelve rows in batches of two, by Lightning alone."""
    optimizer = OptimizerOptions(learning_rate=1e-2, on_non_finite=action)
    module = SFTModule(str(model), lora=LoraOptions(top_layers=2), optimizer=optimizer, dtype="float32")
    rows = str(write_rows(folder / "rows.jsonl", demonstrations(12)))
    data = PromptResponseDataModule(rows, validation_share=0.0, batch_size=2)
    plain_trainer(folder, callbacks=[seen], max_epochs=1, **options).fit(module, data)
    seen.on_train_batch_start(None, module)
    return module


def changed(seen: Weights) -> list[bool]:
    pairs = zip(seen.seen, seen.seen[1:], strict=False)
    return [not all(map(torch.equal, one, other)) for one, other in pairs]


def test_only_the_step_with_nan_is_skipped(tmp_path: Path, tiny_model: Path, broken_loss: Break) -> None:
    seen = Weights()
    broken_loss(3)
    module = train(tmp_path, tiny_model, "skip", seen)
    assert changed(seen) == [True, True, True, False, True, True]
    assert module.trainer.global_step == 6  # a skipped one counts, or the schedule would shift


def test_one_micro_batch_with_nan_skips_its_whole_step(
    tmp_path: Path, tiny_model: Path, broken_loss: Break, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Weights()
    broken_loss(2)  # the first of the second step
    train(tmp_path, tiny_model, "skip", seen, accumulate_grad_batches=2)
    assert changed(seen) == [False, True, False, False, False, True]
    assert "step 2: train/loss is nan" in caplog.text


def test_a_trainer_without_our_callbacks_stops_too(tmp_path: Path, tiny_model: Path, broken_loss: Break) -> None:
    for batch in (1, 5):  # amid, and the last one
        broken_loss(batch)
        with pytest.raises(UserError, match=f"^step {batch + 1}: train/loss is nan, the gradient is nan"):
            train(tmp_path, tiny_model, "stop", Weights())


class Corrupt(Callback):
    """Makes a trained weight inf after a step, and no step follows that would notice."""

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """Changes the first trained tensor."""
        next(p for p in module.parameters() if p.requires_grad).data.view(-1)[0] = float("inf")


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_broken_weights_are_not_handed_over(
    run_folder: Path, files: Files, tiny_model: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    start = [f"--model.base={tiny_model if stage == 'sft' else run_folder / 'sft'}"]
    start += [f"--model.reward.model={run_folder / 'rm'}"] if stage == "ppo" else []
    one = ["--model.iterations=1", "--model.objective.minibatches=1"] if stage == "ppo" else ["--trainer.max_steps=1"]
    before = snapshot(run_folder / stage, results_only=True)
    broken = [f"--trainer.callbacks={__name__}.Corrupt", "--trainer.limit_val_batches=0", *one]
    assert fit(stage, run_folder, files, *start, *broken) == 2
    error = capsys.readouterr().err
    assert f"lit-instruct: error: {stage}: " in error
    assert " trained tensors have NaN or inf, such as " in error
    assert "nothing is handed over, and an earlier result is untouched; train again with a lower " in error
    assert snapshot(run_folder / stage, results_only=True) == before


def test_a_validation_loss_that_is_nan_is_not_handed_over(
    tmp_path: Path, files: Files, tiny_model: Path, broken_loss: Break, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    broken_loss(1)  # the first batch of the validation
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", *short) == 2
    assert "error: sft: val/loss is nan; nothing is handed over" in capsys.readouterr().err
    assert not (tmp_path / "sft/stage.json").exists()
