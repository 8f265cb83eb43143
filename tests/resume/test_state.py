"""What a checkpoint holds in addition to Lightning's part, and what is restored from it, without a Trainer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from lit_instruct.errors import UserError
from lit_instruct.stages.frozen_dtype import FrozenDtype
from lit_instruct.stages.resume import Resume


def stage(size: int = 2, should_stop: bool = False, **limits: int) -> Any:
    """A module with a frozen layer, a trained one and a buffer, attached to a stand-in for a Trainer."""
    module: Any = nn.Module()
    module.frozen, module.trained = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, size)
    module.register_buffer("bias", torch.zeros(()))
    module.stage, module.dtype_choice = "sft", FrozenDtype("float32")
    module.trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(_batches_that_stepped=7)),
        state=SimpleNamespace(fn="fit"),
        validating=True,
        should_stop=should_stop,
        callback_metrics={"val/loss": torch.tensor(0.5)},
        optimizers=[],
        lr_scheduler_configs=[],
        **({"max_epochs": None, "max_steps": -1} | limits),
    )
    return module


def saved(module: Any) -> dict[str, Any]:
    """The checkpoint of a first session."""
    checkpoint = {"state_dict": module.state_dict(), "epoch": 2, "global_step": 9, "optimizer_states": []}
    Resume().save(checkpoint, module, {"seed": 0})
    return checkpoint


def test_content() -> None:
    checkpoint = saved(stage(should_stop=True))
    assert set(checkpoint["state_dict"]) == {"trained.weight", "trained.bias", "bias"}
    assert checkpoint["logged_steps"] == 8  # including the one before the validation
    assert checkpoint["metrics"] == {"val/loss": 0.5}
    assert checkpoint["options"] == {"seed": 0}
    assert checkpoint["stopped"] is True
    assert checkpoint["stage"] == "sft"


def test_restored() -> None:
    module, resume = stage(), Resume()
    resume.load(saved(stage()) | {"seconds": 60.0, "metrics": {"train/loss": 2.0}}, module, {"seed": 0})
    resume.start(module.trainer)
    assert 60 <= resume.seconds < 70
    assert resume.metrics(module.trainer) == {"train/loss": 2.0, "val/loss": 0.5}
    for _ in range(2):
        resume.correct(module.trainer)
        assert module.trainer.fit_loop.epoch_loop._batches_that_stepped == 8
    module.trainer.fit_loop.epoch_loop._batches_that_stepped = 9  # later batches are counted by Lightning alone
    resume.correct(module.trainer)
    assert module.trainer.fit_loop.epoch_loop._batches_that_stepped == 9


@pytest.mark.parametrize(("seed", "stays"), [(0, True), (1, False)])
def test_stopped_training_goes_on_only_with_another_option(seed: int, stays: bool) -> None:
    module = stage()
    Resume().load(saved(stage(should_stop=True)), module, {"seed": seed})
    assert module.trainer.should_stop == stays


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (stage(size=3), "does not fit this model"),
        (stage(max_epochs=1), "--trainer.max_epochs=1: the checkpoint has 2"),
        (stage(max_steps=8), "--trainer.max_steps=8: the checkpoint has 9"),
    ],
)
def test_refused(module: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Resume().load(saved(stage()), module, {"seed": 0})


def test_weights_that_the_strategy_has_loaded_are_not_checked() -> None:
    checkpoint = saved(stage())
    del checkpoint["state_dict"]
    Resume().load(checkpoint, stage(size=3), {"seed": 0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "rm"}, "this is a checkpoint of rm, not of sft"),
        ({"ppo": {}, "stage": None}, "this is a checkpoint of ppo, not of sft"),
        ({"optimizer_states": None}, "has weights only"),
    ],
)
def test_a_checkpoint_of_another_stage_or_without_the_training_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    checkpoint = {name: value for name, value in (saved(stage()) | changes).items() if value is not None}
    with pytest.raises(UserError, match=f"^--ckpt_path: .*{message}"):
        Resume().load(checkpoint, stage(), {"seed": 0})


def test_a_checkpoint_of_0_1_0_names_no_stage() -> None:
    checkpoint = saved(stage())
    del checkpoint["stage"]
    Resume().load(checkpoint, stage(), {"seed": 0})


def test_changed_options_are_kept_but_not_those_that_a_later_version_added() -> None:
    resume = Resume()
    resume.load(saved(stage()), stage(), {"seed": 1, "new": 2})
    assert resume.changed == ["seed"]
