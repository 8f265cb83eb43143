"""Files that are no checkpoint of a stage are refused in one sentence, and nothing in them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.stages.checkpoint import check_checkpoint, read_checkpoint

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
    ],
    ids=["list", "tensor", "state dict", "another project's", "metrics", "epoch", "optimizer"],
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


def test_a_file_with_a_class_and_a_folder(tmp_path: Path) -> None:
    torch.save(GOOD | {"options": tmp_path}, tmp_path / "odd.ckpt")
    for path in (tmp_path / "odd.ckpt", tmp_path):
        with pytest.raises(UserError, match="is damaged or not a checkpoint"):
            read_checkpoint(path, "cpu")
