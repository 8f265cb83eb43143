"""The loggers of a run: ours always, others beside them, and sentences about those that cannot work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from lit_instruct.errors import UserError
from lit_instruct.running import loggers
from lit_instruct.running.loggers import check_loggers, logger_failed
from tests.lit_instruct.stages.helpers import FLOAT, QUICK, Files, column, fit, run, snapshot

LORA = "--model.lora.top_layers=2"
LIGHTNINGS = "lightning.pytorch.loggers."


def named(name: str, **options: Any) -> Namespace:
    return Namespace(class_path=f"{LIGHTNINGS}{name}", init_args=Namespace(**options))


@pytest.mark.parametrize("name", ["WandbLogger", "MLFlowLogger", "CometLogger", "NeptuneLogger"])
def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf"^--trainer.logger={name}: the package .* is not installed; .*pip install"):
        check_loggers([named(name, save_dir=".")], tmp_path)


def test_files_go_into_the_run_folder_unless_a_place_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda _: object())
    given = [
        named("WandbLogger", save_dir="."),
        named("MLFlowLogger", save_dir="./mlruns"),
        named("WandbLogger", save_dir="elsewhere"),
        Namespace(class_path="mine.WandbLogger", init_args=Namespace(save_dir=".")),
        True,
    ]
    check_loggers(given, tmp_path)
    places = [logger.init_args.save_dir for logger in given if isinstance(logger, Namespace)]
    assert places == [str(tmp_path), str(tmp_path / "mlruns"), "elsewhere", "."]


def test_a_failing_package_is_one_sentence() -> None:
    usage_error = type("UsageError", (Exception,), {"__module__": "wandb.errors.errors"})
    told = logger_failed(usage_error("No API key\nconfigured."))
    assert str(told).startswith("--trainer.logger=WandbLogger: No API key configured; correct this")
    assert "WANDB_MODE=offline" in str(told)
    assert logger_failed(ValueError("wandb")) is None


@pytest.mark.parametrize("name", ["CSVLogger", "TensorBoardLogger"])
def test_a_named_logger_stands_beside_ours(tmp_path: Path, tiny_model: Path, files: Files, name: str) -> None:
    words = [f"--trainer.logger={name}", f"--trainer.logger.save_dir={tmp_path / 'theirs'}", "--trainer.max_epochs=1"]
    assert fit("sft", tmp_path, files, f"--model.base={tiny_model}", *words) == 0
    assert list((tmp_path / "theirs").rglob("metrics.csv" if name == "CSVLogger" else "*tfevents*"))
    assert len(column(tmp_path / "sft/logs/metrics.csv", "train/loss")) == 5
    assert bool(list((tmp_path / "sft/logs").glob("*tfevents*"))) == (name == "CSVLogger")
    before = snapshot(tmp_path / "sft")
    data = files.options("sft")
    words = [f"--trainer.logger={name}", f"--trainer.logger.save_dir={tmp_path / 'validated'}", *FLOAT, *QUICK]
    assert run("sft", "validate", "--run", tmp_path, *data, f"--model.base={tiny_model}", LORA, *words) == 0
    assert list((tmp_path / "validated").rglob("metrics.csv" if name == "CSVLogger" else "*tfevents*"))
    assert snapshot(tmp_path / "sft") == before  # the logs there are those of the training


def test_the_norm_of_the_gradient_is_that_before_clipping(tmp_path: Path, tiny_model: Path, files: Files) -> None:
    def norms(run: str, clip: float) -> list[float]:
        words = [f"--trainer.gradient_clip_val={clip}", "--trainer.max_epochs=1"]
        assert fit("sft", tmp_path / run, files, f"--model.base={tiny_model}", *words) == 0
        return column(tmp_path / run / "sft/logs/metrics.csv", "train/grad_norm")

    free, clipped = norms("free", 1e9), norms("clipped", 1e-3)
    assert len(free) == len(clipped) == 5
    assert clipped[0] == free[0] > 1e-2
