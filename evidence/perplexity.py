"""Perplexity of texts that people wrote: how much of its language a policy has kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_instruct.models.dtype import DtypeName
from lit_instruct.rollouts.text import Response, TextGenerator


class Likelihood(NamedTuple):
    """Log-probabilities of N responses."""

    nats: np.ndarray
    """(N,) log-probability of each, the EOS included."""
    tokens: np.ndarray
    """(N,) number of tokens of each."""

    def perplexity(self, chosen: np.ndarray) -> float:
        """Returns ``exp(- sum of nats / number of tokens)`` over some responses, given by their numbers."""
        return float(np.exp(-self.nats[chosen].sum() / self.tokens[chosen].sum()))


def likelihoods(
    models: Mapping[str, str], rows: Sequence[Mapping[str, Any]], dtype: DtypeName = "auto"
) -> dict[str, Likelihood]:
    """Returns how probable each model finds the responses of demonstrations.

    Args:
        models: name -> stage folder, folder or hub id; one is in memory at a time.
        rows: prompt and response.
        dtype: of the weights.
    """
    return {name: _likelihood(TextGenerator.from_source(source, dtype), rows) for name, source in models.items()}


def _likelihood(model: TextGenerator, rows: Sequence[Mapping[str, Any]]) -> Likelihood:
    ids = [model.prompter.response_ids(row["response"]) for row in rows]
    responses = [Response(one, row["response"], True) for one, row in zip(ids, rows, strict=True)]
    nats = model.log_probs([row["prompt"] for row in rows], responses)
    return Likelihood(np.array(nats), np.array([len(one) for one in ids]))
