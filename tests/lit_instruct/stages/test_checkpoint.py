"""Files that are no checkpoint of a stage are refused in one sentence, and nothing in them is run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.stages.checkpoint import check_checkpoint, opening, read_checkpoint
from lit_instruct.stages.resume import check_before_loading

GOOD: dict[str, Any] = {
    "pytorch-lightning_version": "2.6.6",
    "epoch": 0,
    "global_step": 3,
    "state_dict": {"weight": torch.zeros(2)},
    "seconds": 1.5,
    "logged_steps": 3,
    "metrics": {},
    "options": {},
    "stopped": False,
}


def test_one_of_a_stage_is_read(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "last.ckpt")
    found = read_checkpoint(tmp_path / "last.ckpt", "cpu")
    assert found["global_step"] == 3
    assert torch.equal(found["state_dict"]["weight"], torch.zeros(2))


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ([1, 2], "pytorch-lightning_version"),
        (torch.zeros(3), "pytorch-lightning_version"),
        ({"weight": torch.zeros(2)}, "pytorch-lightning_version"),
        ({name: value for name, value in GOOD.items() if name not in ("seconds", "options")}, "seconds"),
        (GOOD | {"metrics": [1]}, "metrics"),
        (GOOD | {"epoch": "two"}, "epoch"),
        (GOOD | {"optimizer_states": {}}, "optimizer_states"),
        (GOOD | {"state_dict": {"weight": "zeros"}}, "state_dict"),
    ],
    ids=["list", "tensor", "state dict", "another project's", "metrics", "epoch", "optimizer", "weight"],
)
def test_something_else_is_refused(content: Any, wrong: str) -> None:
    with pytest.raises(UserError, match=rf"^--ckpt_path: x.ckpt is not a checkpoint of a stage \(its '{wrong}' "):
        check_checkpoint(content, "x.ckpt")


@pytest.mark.parametrize("kept", [0, 1, 100, 400, -1, -30])
def test_a_cut_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(GOOD, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"^--ckpt_path: \S+ is damaged or not a checkpoint \("):
        read_checkpoint(path, "cpu")


def test_a_long_reason_is_quoted_to_the_end_of_a_sentence_or_word() -> None:
    for text, quoted in (
        ("File is cut. If you are seeing this, look at the disk", r"\(File is cut\); give"),
        ("word " * 40, r"\((word )+\.\.\.\); give"),
    ):
        with pytest.raises(UserError, match=quoted), opening("x.ckpt"):
            raise RuntimeError(text)


class Built(torch.nn.Linear):
    """What is asked of a module whose Trainer is about to open a checkpoint."""

    stage = "sft"
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))


class Strategy:
    """Opens whatever it is given."""

    lightning_module = Built(2, 1)

    def load_checkpoint(self, checkpoint_path: Path, weights_only: bool | None = None) -> Any:
        return checkpoint_path, weights_only


def test_what_fsdp2_would_open_by_itself(tmp_path: Path) -> None:
    strategy, path = Strategy(), tmp_path / "last.ckpt"
    check_before_loading(strategy)
    whole = GOOD | {"stage": "sft", "state_dict": Built(2, 1).state_dict(), "optimizer_states": []}
    torch.save(whole, path)
    assert strategy.load_checkpoint(path) == (path, True)
    for changed, message in (
        ({"stage": "rm"}, "this is a checkpoint of rm, not of sft"),
        ({"state_dict": {"weight": torch.zeros(1, 2)}}, r"does not fit this model \(bias: None there"),
        ({"state_dict": {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}}, r"does not fit this model \(weight: "),
    ):
        torch.save(whole | changed, path)
        with pytest.raises(UserError, match=message):
            strategy.load_checkpoint(path)
    torch.save({name: value for name, value in whole.items() if name != "optimizer_states"}, path)
    with pytest.raises(UserError, match="weights only"):
        strategy.load_checkpoint(path)
    with pytest.raises(UserError, match="is a folder of shards, which torch reads with pickle"):
        strategy.load_checkpoint(tmp_path)


def test_a_file_with_a_class_and_a_folder(tmp_path: Path) -> None:
    torch.save(GOOD | {"options": tmp_path}, tmp_path / "odd.ckpt")
    for path in (tmp_path / "odd.ckpt", tmp_path):
        with pytest.raises(UserError, match="is damaged or not a checkpoint"):
            read_checkpoint(path, "cpu")
