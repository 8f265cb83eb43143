"""Fixtures for tests of PPO as a stage."""

from __future__ import annotations

from typing import Any

import pytest

from lit_instruct.batches import Rollout
from lit_instruct.ppo.targets import Target, Targets


@pytest.fixture
def targeted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Rollout, Target]]:
    """The rollouts of every iteration, with their targets."""
    kept: list[tuple[Rollout, Target]] = []
    targets = Targets.__call__

    def keep(self: Targets, rollouts: list[Rollout], kl_coef: float, *rows: Any) -> Any:
        found = targets(self, rollouts, kl_coef, *rows)
        kept.extend(zip(rollouts, found[0], strict=True))
        return found

    monkeypatch.setattr(Targets, "__call__", keep)
    return kept
