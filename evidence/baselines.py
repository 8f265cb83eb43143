"""What a reward model has to beat: scores of the response alone, by its length and by the words in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_instruct.evaluation.reward_measures import Pairs, ranked_pairs

Rows = Sequence[dict[str, Any]]
"""Comparisons: prompt, responses, ranks (1 is the best)."""


class Agreement(NamedTuple):
    """Pairs in people's order, by comparison."""

    correct: np.ndarray
    """(N,) pairs in that order; equal scores count half."""
    pairs: np.ndarray
    """(N,) pairs of differently ranked responses."""

    def share(self, chosen: np.ndarray) -> float:
        """Returns the share over some comparisons, given by their numbers."""
        return float(self.correct[chosen].sum() / self.pairs[chosen].sum())


def agreement(scores: Sequence[float], rows: Rows) -> Agreement:
    """Returns how scores, one per response of all rows in their order, agree with the ranks."""
    ends = np.cumsum([len(row["ranks"]) for row in rows])
    found = ranked_pairs([part.tolist() for part in np.split(np.asarray(scores, float), ends[:-1])], ranks(rows))
    return Agreement(
        _by_row(found, (found.margin > 0) + 0.5 * (found.margin == 0), len(rows)), _by_row(found, None, len(rows))
    )


def ranks(rows: Rows) -> list[list[int]]:
    """Returns the ranks of each comparison."""
    return [row["ranks"] for row in rows]


def responses(rows: Rows) -> list[str]:
    """Returns all responses of the comparisons, one after the other."""
    return [text for row in rows for text in row["responses"]]


def _by_row(pairs: Pairs, weights: np.ndarray | None, rows: int) -> np.ndarray:
    return np.bincount(pairs.row, weights=weights, minlength=rows).astype(float)


def by_length(training: Rows, test: Rows) -> list[float]:
    """Returns the length in characters of each response to `test`; negative where the shorter is better in training."""
    sign = (
        1
        if agreement([len(text) for text in responses(training)], training).share(np.arange(len(training))) >= 0.5
        else -1
    )
    return [float(sign * len(text)) for text in responses(test)]


def by_words(training: Rows, test: Rows) -> list[float]:
    """Returns the log-odds of each response to `test` being best, by logistic regression on tf-idf of its words.

    Words and pairs of words; fitted on the responses to `training`, the best ones against all others.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    best = [rank == min(row["ranks"]) for row in training for rank in row["ranks"]]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10, max_iter=1000, class_weight="balanced"),
    )
    return model.fit(responses(training), best).decision_function(responses(test)).tolist()


BASELINES = {"length": by_length, "tf-idf": by_words}
