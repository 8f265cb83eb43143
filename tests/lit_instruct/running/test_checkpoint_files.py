"""A checkpoint file is there whole, or it is the one before."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lit_instruct.errors import UserError
from lit_instruct.running.checkpoint_files import AtomicCheckpointIO
from lit_instruct.stages.checkpoint import read_checkpoint


@pytest.fixture
def small_files() -> Iterator[None]:
    """Lets no file grow beyond 100 kB, as a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_the_file_before(tmp_path: Path, small_files: None) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1, "weights": torch.zeros(3)}, path)
    with pytest.raises(OSError, match="too large"):
        AtomicCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(1_000_000)}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_file_cut_off_elsewhere_is_refused_in_words(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "copied.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"copied.ckpt is damaged or not a checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path)


def test_any_changed_bytes_are_refused_in_words_or_not_noticed(tmp_path: Path) -> None:
    """torch's reader raises KeyError, TypeError, IndexError and others for bytes that were changed."""
    path, draw, refused = tmp_path / "changed.ckpt", random.Random(0), 0
    AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(4), "options": {"name": "value", "count": 3}}, path)
    whole = path.read_bytes()
    for _ in range(300):
        changed = bytearray(whole)
        for at in range(draw.choice([1, 1, 20])):
            changed[draw.randrange(600) + at] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            read_checkpoint(path, "cpu")
        except UserError as error:
            refused += "is damaged or not a checkpoint (" in str(error)
    assert refused > 50


def test_a_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": Path("a class")}, tmp_path / "odd.ckpt")
    for weights_only in (None, True, False):
        with pytest.raises(UserError, match=r"odd.ckpt is damaged or not a checkpoint"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / "odd.ckpt", weights_only=weights_only)
