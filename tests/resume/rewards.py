"""A reward function that raises an exception at a chosen call."""

from __future__ import annotations

import os

from tests.lit_instruct.stages.rewards import Pairs
from tests.lit_instruct.stages.rewards import letters as count_letters

BREAKS = "BREAK_AT_CALL"
"""Environment variable: number of the call, from 1, that raises an exception; `2:1` means call 2 of process 1 only."""
calls = 0


def letters(pairs: Pairs) -> list[float]:
    """The number of letters `a` to `m` in each response."""
    global calls
    calls += 1
    call, _, rank = os.environ.get(BREAKS, "0").partition(":")
    if calls == int(call) and rank in ("", os.environ.get("LOCAL_RANK", "0")):
        raise RuntimeError("the labeler has gone home")
    return count_letters(pairs)
