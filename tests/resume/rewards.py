"""A reward function that breaks when it is told to."""

from __future__ import annotations

import os

from tests.lit_instruct.stages.rewards import Pairs
from tests.lit_instruct.stages.rewards import letters as count_letters

BREAKS = "BREAK_AT_CALL"
"""Environment variable: the call, counted from 1, that raises an exception; `2:1` means that of process 1 alone."""
calls = 0


def letters(pairs: Pairs) -> list[float]:
    """How many letters `a` to `m` a response has."""
    global calls
    calls += 1
    call, _, rank = os.environ.get(BREAKS, "0").partition(":")
    if calls == int(call) and rank in ("", os.environ.get("LOCAL_RANK", "0")):
        raise RuntimeError("the labeler has gone home")
    return count_letters(pairs)
