"""What "auto" chose is recorded, and stays: for later stages, a resumed run, commands on its models, and plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import load_file

from data_modules import PromptResponseDataModule
from lit_instruct.errors import UserError
from lit_instruct.models import dtype
from lit_instruct.rollouts.text import TextGenerator
from lit_instruct.rollouts.text_reward import TextReward
from lit_instruct.stages.frozen_dtype import FrozenDtype, with_recorded_dtype
from lit_instruct.stages.sft import SFTModule
from tests.lit_instruct.stages.helpers import FLOAT, Files, fit, run

AUTO = "--model.dtype=auto"
SLOW, FAST = {"float32": 1.0, "bfloat16": 2.0}, {"float32": 2.0, "bfloat16": 1.0}
"""Seconds per token on processors where bfloat16 is slow or fast."""


class Machine:
    """A processor whose speeds are known."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: dict[str, float] = FAST
        self.name = "A"
        self.measured = 0
        monkeypatch.setattr(dtype, "seconds_here", self.seconds_here)
        monkeypatch.setattr(dtype, "processor", lambda: (self.name, "f"))

    def seconds_here(self, widths: dtype.Widths) -> dict[str, float]:
        self.measured += 1
        return self.seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A processor with fast bfloat16, until a test says otherwise."""
    return Machine(monkeypatch)


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "stage.json").read_text())
    return record


def test_the_choice_is_told_recorded_and_kept(
    tmp_path: Path, tiny_model: Path, files: Files, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    run, base = tmp_path / "run", f"--model.base={tiny_model}"
    with caplog.at_level("INFO"):
        assert fit("sft", run, files, base, AUTO) == 0
    why = "2.0 times as fast as float32 on A"
    assert f"dtype bfloat16: {why}; --model.dtype=float32 chooses the other" in caplog.messages
    record = record_of(run / "sft")
    assert record["dtype"] == {"name": "bfloat16", "why": why, "processor": "A", "flags": "f"}
    assert record["base_precision"] == "bfloat16"
    assert record["options"]["trainer"]["precision"] == "bf16-mixed"
    saved = torch.load(run / "sft/checkpoints/last.ckpt", weights_only=True)
    assert saved["dtype"] == "bfloat16"

    machine.seconds, machine.measured = SLOW, 0
    assert fit("sft", run, files, base, AUTO, "--ckpt_path=last", "--trainer.max_epochs=3", "--check_memory=false") == 0
    assert record_of(run / "sft")["dtype"]["name"] == "bfloat16"  # as the run began
    assert record_of(run / "sft")["dtype"]["why"] == "that of the checkpoint"
    assert fit("rm", run, files, AUTO) == 0
    assert record_of(run / "rm")["dtype"]["why"] == "that of the sft stage"
    assert record_of(run / "rm")["base_precision"] == "bfloat16"
    assert next(TextGenerator.from_source(str(run / "sft")).model.parameters()).dtype == torch.bfloat16
    assert TextReward.from_source(str(run / "rm")).network.get_input_embeddings().weight.dtype == torch.bfloat16
    assert with_recorded_dtype({"model.dtype": "auto"}, "cpu", str(run / "sft")) == {"model.dtype": "bfloat16"}
    assert with_recorded_dtype({"model.dtype": "float32"}, "cpu", str(run / "sft")) == {"model.dtype": "float32"}
    assert with_recorded_dtype({"model.dtype": "auto"}, "cuda", str(run / "sft")) == {"model.dtype": "auto"}
    assert with_recorded_dtype({"model.dtype": "auto"}, "cpu", "llama-8b") == {"model.dtype": "auto"}
    assert machine.measured == 0

    machine.name = "B"  # the run is copied to another machine
    assert next(TextGenerator.from_source(str(run / "sft")).model.parameters()).dtype == torch.float32
    assert machine.measured == 1


def test_a_processor_with_slow_bfloat16(tmp_path: Path, tiny_model: Path, files: Files, machine: Machine) -> None:
    """It trains as with --model.dtype=float32, to the bit."""
    machine.seconds = SLOW
    base = f"--model.base={tiny_model}"
    assert fit("sft", tmp_path / "auto", files, base, AUTO) == 0
    assert fit("sft", tmp_path / "given", files, base, *FLOAT) == 0
    assert record_of(tmp_path / "auto/sft")["dtype"]["why"] == "2.0 times as fast as bfloat16 on A"
    assert record_of(tmp_path / "given/sft")["dtype"]["why"] == "given as an option"
    assert record_of(tmp_path / "auto/sft")["options"]["trainer"]["precision"] == "32-true"
    ours, theirs = (load_file(tmp_path / run / "sft/adapter_model.safetensors") for run in ("auto", "given"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_resumed_with_another_dtype_given(
    tmp_path: Path, tiny_model: Path, files: Files, machine: Machine
) -> None:
    base = f"--model.base={tiny_model}"
    assert fit("sft", tmp_path, files, base, AUTO) == 0
    assert fit("sft", tmp_path, files, base, *FLOAT, "--ckpt_path=last", "--trainer.max_epochs=3") == 0
    assert record_of(tmp_path / "sft")["dtype"]["name"] == "float32"
    assert fit("sft", tmp_path, files, base, AUTO, "--ckpt_path=last", "--trainer.max_epochs=4") == 0
    assert record_of(tmp_path / "sft")["dtype"]["name"] == "float32"


def test_from_python_another_dtype_is_refused(tmp_path: Path, tiny_model: Path, files: Files, machine: Machine) -> None:
    """The Trainer does not tell a module which checkpoint it will load before the module is built."""

    def trainer(epochs: int) -> lightning.Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        return lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", default_root_dir=tmp_path, use_distributed_sampler=False, **quiet
        )

    def data() -> PromptResponseDataModule:
        return PromptResponseDataModule(path=str(files.sft), batch_size=4)

    module = SFTModule(base=str(tiny_model))
    begun = trainer(1)
    begun.fit(module, data())
    assert module.frozen_dtype == torch.bfloat16
    begun.save_checkpoint(tmp_path / "one.ckpt")
    machine.seconds = SLOW
    with pytest.raises(UserError, match=r"dtype=auto: float32 here, and the checkpoint has bfloat16; give --model.dty"):
        trainer(2).fit(SFTModule(base=str(tiny_model)), data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    again = SFTModule(base=str(tiny_model), dtype="bfloat16")
    trainer(2).fit(again, data(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert again.frozen_dtype == torch.bfloat16


class TwoRanks:
    """A strategy on rank 1, where rank 0 chose bfloat16."""

    is_global_zero = False
    root_device = torch.device("cpu")

    def broadcast(self, made: Any) -> dtype.ChosenDtype:
        return dtype.ChosenDtype("bfloat16", "2.0 times as fast as float32 on A", "A", "f")


def test_every_rank_takes_the_choice_of_rank_0(tiny_model: Path, machine: Machine) -> None:
    source = SFTModule(base=str(tiny_model)).source
    machine.seconds = SLOW
    choice = FrozenDtype("auto")
    assert choice.agree(source, TwoRanks()).name == "bfloat16"  # type: ignore[arg-type]
    assert machine.measured == 0
    later = FrozenDtype("auto")
    assert later.choose(source, torch.device("cpu")).name == "float32"
    assert later.agree(source, TwoRanks()).name == "bfloat16"  # type: ignore[arg-type]
    assert later.known == "bfloat16"


def test_a_plan_for_a_gpu_measures_nothing(
    tiny_model: Path, machine: Machine, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("plan", "--stage=sft", f"--model.base={tiny_model}", f"--data.path={files.sft}")
    assert run(*words, "--gpu=24GB") == 0
    assert machine.measured == 0
    assert "base in bfloat16" in capsys.readouterr().out
    machine.seconds = SLOW
    assert run(*words, "--trainer.accelerator=cpu") == 0
    assert "base in float32" in capsys.readouterr().out
    assert run(*words, "--trainer.accelerator=cpu", "--model.dtype=bfloat16") == 0
    assert "base in bfloat16" in capsys.readouterr().out
