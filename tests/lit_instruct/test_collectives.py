"""Collectives: one place calls torch's, and tensors travel on the device of their rank."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from lit_instruct.collectives import gather_objects, largest

ROOT = Path(__file__).parents[2]
CALLS = re.compile(r"distributed\.(all_reduce|all_gather\w*|broadcast\w*|gather\w*|reduce\w*|scatter\w*|barrier)\(")


def test_no_other_file_calls_torchs_collectives() -> None:
    files = [path for top in ("lit_instruct", "data_modules") for path in ROOT.glob(f"{top}/**/*.py")]
    calling = {path.name for path in files if CALLS.search(path.read_text(encoding="utf-8"))}
    assert calling == {"collectives.py"}


def test_counts_travel_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL takes no host tensors."""
    devices: list[str] = []

    def reduce(values: torch.Tensor, how: object) -> None:
        devices.append(values.device.type)
        assert how == torch.distributed.ReduceOp.MAX

    monkeypatch.setattr(torch.distributed, "all_reduce", reduce)
    assert largest([2, 5], torch.device("cpu")) == [2, 5]
    with pytest.raises(RuntimeError, match="meta"):  # a meta tensor has no values to return
        largest([1], torch.device("meta"))
    assert devices == ["cpu", "meta"]


def test_objects_of_all_ranks_come_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(everywhere: list[object], mine: object) -> None:
        everywhere[:] = [mine, "theirs"]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert gather_objects("mine", 2) == ["mine", "theirs"]
