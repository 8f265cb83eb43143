"""Work in step on a sharded model; test_fsdp2.py trains one on two processes."""

from __future__ import annotations

import pytest
from torch import nn

from lit_instruct.models import sharding


def test_in_step_adds_nothing_for_a_whole_model() -> None:
    assert sharding.in_step(["a", "b"], "idle", nn.Linear(1, 1)) == ["a", "b"]


def test_in_step_puts_the_idle_work_that_other_processes_need_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "most_of_all", lambda model, count: [4])
    assert sharding.in_step(("a", "b"), "idle", nn.Linear(1, 1)) == ["idle", "idle", "a", "b"]
