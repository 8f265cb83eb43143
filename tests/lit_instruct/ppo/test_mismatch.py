"""How far an engine's log-probabilities are from ours, and which cause the message names."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lit_instruct.batches import Rollout
from lit_instruct.errors import UserError
from lit_instruct.ppo.minibatches import idle_part
from lit_instruct.ppo.mismatch import Mismatch, with_sampled
from lit_instruct.ppo.ranks import Ranks

RANKS = Ranks(nn.Module())
OURS = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, -1.0, 0.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])


def rollout(theirs: list[list[float]] | None, reference: float = 1.0) -> Rollout:
    """Two responses, of 3 and 2 tokens, that are rows 1 and 0 of the batch; `reference` is how far the SFT model is."""
    empty, _ = idle_part(torch.device("cpu"))
    own = {"response_mask": MASK, "log_probs": OURS, "reference_log_probs": (OURS - reference) * MASK}
    return with_sampled(empty._replace(**own), [1, 0], theirs)


def test_the_log_probs_of_rows_go_to_their_tokens() -> None:
    found = rollout([[-4.0, -5.0], [-1.0, -2.0, -3.0]]).sampler_log_probs
    assert found is not None and found.tolist() == [[-1.0, -2.0, -3.0], [-4.0, -5.0, 0.0]]
    assert rollout(None).sampler_log_probs is None
    assert Mismatch(0.0001)([rollout(None)], RANKS) == {}


def test_literal_figures() -> None:
    figures = Mismatch()([rollout([[-3.0, -1.0 + math.log(3)], [-1.0, -2.0, -0.5]])], RANKS)
    d = math.log(3)  # of one token in five, theirs - ours
    assert figures["rollout/mismatch_kl"] == pytest.approx((math.exp(-d) - 1 + d) / 5)
    assert figures["rollout/mismatch_far"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("shift", "reference", "cause"),
    [
        (-1.0, 1.0, "they are those of the SFT model: the servers answer without the policy's adapter"),
        (-1.0, 0.1, "the servers have another base, an adapter of another shape, or another temperature"),
        (-0.3, 1.0, "the servers compute in another dtype"),
        (float("nan"), 1.0, "nan nats a token"),
    ],
)
def test_beyond_the_bound_the_run_stops_with_the_likely_cause(shift: float, reference: float, cause: str) -> None:
    theirs = [[-3.0 + shift, -1.0 + shift], [-1.0 + shift, -2.0 + shift, -0.5 + shift]]
    with pytest.raises(UserError, match=cause):
        Mismatch(0.01)([rollout(theirs, reference)], RANKS)
    assert Mismatch(None)([rollout(theirs, reference)], RANKS)


def test_top_p_raises_the_bound_by_what_it_may_leave_out() -> None:
    inside = rollout([[-3.0 + 0.1, -1.0 + 0.1], [-1.0 + 0.1, -2.0 + 0.1, -0.5 + 0.1]])  # kl 0.0048
    Mismatch(0.001, top_p=0.9)([inside], RANKS)
    with pytest.raises(UserError):
        Mismatch(0.001, top_p=0.999)([inside], RANKS)
