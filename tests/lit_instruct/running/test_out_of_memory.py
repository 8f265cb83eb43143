"""A stage that will not fit is refused at start; one that ran out of memory says what to change."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback

import lit_instruct.running.out_of_memory as out_of_memory
from lit_instruct.running.out_of_memory import is_out_of_memory
from tests.lit_instruct.stages.helpers import Files, fit


class RunsOut(Callback):
    """Has no memory left for the third batch."""

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: object, batch: object, batch_idx: int
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


OURS = f"--trainer.callbacks+={__name__}.RunsOut"


def test_what_says_that_memory_is_short() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert is_out_of_memory(MemoryError())
    wrapped = RuntimeError("a step failed")
    wrapped.__cause__ = MemoryError()
    assert is_out_of_memory(wrapped)
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_stage_that_will_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_model: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out_of_memory, "this_device", lambda _: ("cpu", 400_000.0))
    assert fit("sft", tmp_path / "run", files, f"--model.base={tiny_model}") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("lit-instruct: error: sft: it needs ")
    assert "change --" in error and "--check_memory=false" in error
    assert not (tmp_path / "run").exists()
    words = ["--trainer.max_steps=1", "--check_memory=false"]
    assert fit("sft", tmp_path / "run", files, f"--model.base={tiny_model}", *words) == 0


def test_running_out_of_memory_ends_with_the_plan_and_keeps_the_checkpoint(
    tmp_path: Path, tiny_model: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--model.base={tiny_model}", OURS]
    assert fit("sft", tmp_path / "run", files, *words) == 2
    told = capsys.readouterr()
    assert "activations" in told.out and "total" in told.out
    error = told.err.strip().splitlines()[-1]
    assert error.startswith("lit-instruct: error: sft: out of memory at ")
    assert "GiB measured" in error and "GiB planned" in error and "change --" in error
    assert "resume from the last checkpoint with --ckpt_path=last" in error
    assert "Traceback" not in told.err
    assert (tmp_path / "run" / "sft" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "sft" / "stage.json").exists()
    assert fit("sft", tmp_path / "run", files, f"--model.base={tiny_model}", "--ckpt_path=last") == 0
