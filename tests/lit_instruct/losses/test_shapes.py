"""The doors of losses/: a wrong shape or dtype is refused where it comes in (in tests, by jaxtyping and beartype)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from lit_instruct.losses.advantages import generalized_advantages, token_rewards
from lit_instruct.losses.divergence import kl_estimate
from lit_instruct.losses.masked import Moments, masked_moments, whiten
from lit_instruct.losses.policy import clipped_policy_loss, clipped_value_loss
from lit_instruct.losses.ranking import ranking_loss

TOKENS, MASK = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
NARROW, WIDE = torch.zeros(2, 2), torch.ones(2, 4, dtype=torch.bool)
EPISODES, NUMBERS = torch.zeros(2), torch.zeros(2, dtype=torch.long)
MOMENTS = Moments(*torch.ones(3, dtype=torch.float64))

RIGHT: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (token_rewards, (EPISODES, TOKENS, MASK, 0.1)),
    (generalized_advantages, (TOKENS, TOKENS, MASK)),
    (kl_estimate, (TOKENS, TOKENS)),
    (masked_moments, (TOKENS, MASK)),
    (whiten, (TOKENS, MASK, MOMENTS)),
    (clipped_policy_loss, (TOKENS, TOKENS, TOKENS, MASK)),
    (clipped_value_loss, (TOKENS, TOKENS, TOKENS, MASK)),
    (ranking_loss, (EPISODES, NUMBERS, NUMBERS)),
]
WRONG: dict[int, list[Any]] = {
    id(TOKENS): [NARROW, MASK],
    id(MASK): [WIDE, TOKENS],
    id(EPISODES): [torch.zeros(3), NUMBERS],
    id(NUMBERS): [torch.zeros(3, dtype=torch.long), EPISODES],
}
"""For each right argument one of another shape and one of another dtype."""


@pytest.mark.parametrize(("function", "arguments"), RIGHT, ids=lambda value: getattr(value, "__name__", ""))
def test_every_argument_is_checked(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function(*arguments)
    for place, argument in enumerate(arguments):
        for wrong in WRONG.get(id(argument), []):
            with pytest.raises(TypeCheckError):
                function(*arguments[:place], wrong, *arguments[place + 1 :])
