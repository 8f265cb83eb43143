"""Measures of the report as pure functions of numbers or texts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lit_instruct.evaluation.labelers import words

LABELS = {
    "labeler": "labeler score",
    "second_labeler": "second labeler",
    "reward": "reward model",
    "kl": "KL to SFT (nats)",
    "length": "length (tokens)",
    "distinct_2": "distinct-2",
    "eos_share": "EOS share",
}
"""Key of a measure in report.json -> its name in tables and on cards."""
OPENING_WORDS = 3
"""Words that make an opening: "That's a great"."""
BLOCK = 2_000_000
"""Most resampled values in memory at once (16 MB)."""


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    ci_low: float
    ci_high: float


def labels_of(judge: str) -> dict[str, str]:
    """Returns `LABELS`, with the main judge by its name where that is not "labeler"."""
    return LABELS | ({"labeler": judge} if judge != "labeler" else {})


def rounded(figures: Any) -> dict[str, Any]:
    """Returns the fields of a NamedTuple with floats rounded to 6 digits, for JSON."""
    return {name: round(x, 6) if isinstance(x, float) else x for name, x in figures._asdict().items()}


def bootstrap(values: Sequence[float], seed: int, n: int = 2000) -> Interval:
    """Returns the mean with a percentile bootstrap interval: the 2.5 % and 97.5 % quantiles of n resampled means.

    Args:
        values: one number per prompt, at least one; prompts are resampled with replacement.
        seed: seed of the resampling.
        n: number of resamples, at least 1.

    Raises:
        ValueError: no values, or n below 1.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0:
        raise ValueError(f"bootstrap needs a flat, non-empty sequence of numbers, got shape {data.shape}")
    means = np.concatenate([data[rows].mean(axis=1) for rows in resamples(data.size, seed, n)])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(data.mean()), float(low), float(high))


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int, n: int = 2000) -> Interval:
    """Returns the mean of ``ours - theirs`` over the same prompts, bootstrapped over prompts.

    Pairs are resampled together, so differences in difficulty between prompts cancel.

    Args:
        ours: one number per prompt; a positive result means that ours is higher.
        theirs: the other system's numbers, in the same order.
        seed: seed of the resampling.
        n: number of resamples.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"a paired difference needs equal lengths, got {len(ours)} and {len(theirs)}")
    return bootstrap(np.subtract(np.asarray(ours, float), np.asarray(theirs, float)).tolist(), seed, n)


def sign_flip_p(ours: Sequence[float], theirs: Sequence[float], seed: int, n: int = 2000) -> float:
    """Returns the two-sided p-value of the paired difference by a permutation test that flips signs (Fisher 1935).

    ``p = (1 + #{|mean(s d)| >= |mean(d)|}) / (n + 1)`` with d = ours - theirs and n draws of signs s. If the systems
    were alike, each difference could as well have had the other sign.

    Args:
        ours: one number per prompt.
        theirs: the other system's numbers, in the same order.
        seed: seed of the signs.
        n: number of draws.

    Raises:
        ValueError: the two differ in length, or are empty.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"a paired test needs equal lengths above 0, got {len(ours)} and {len(theirs)}")
    difference = np.subtract(np.asarray(ours, float), np.asarray(theirs, float))
    observed, rng = abs(difference.mean()), np.random.default_rng(seed)
    rows = max(1, BLOCK // difference.size)
    beyond = 0
    for start in range(0, n, rows):
        signs = rng.integers(0, 2, size=(min(rows, n - start), difference.size)) * 2 - 1
        means = np.abs((signs * difference).mean(axis=1))
        beyond += int((means >= observed * (1 - 1e-9)).sum())  # rounding of equal sums
    return (1 + beyond) / (n + 1)


class Opening(NamedTuple):
    """The words that most responses of a system begin with."""

    text: str
    """As in the first of these responses."""
    responses: int
    """Number of responses that begin so."""


def commonest_opening(responses: Sequence[str], length: int = OPENING_WORDS) -> Opening | None:
    """Returns the first `length` words that most responses share, without regard to case and punctuation.

    None if no response has that many words; of equally common ones the first.
    """
    starts = [tuple(words(response)[:length]) for response in responses]
    known = [start for start in starts if len(start) == length]
    if not known:
        return None
    start, count = Counter(known).most_common(1)[0]
    text = responses[starts.index(start)].split()
    return Opening(" ".join(text[: _words_that_hold(text, length)]), count)


def _words_that_hold(text: list[str], length: int) -> int:
    """How many parts between white space hold the first `length` words."""
    return next(i for i in range(1, len(text) + 1) if len(words(" ".join(text[:i]))) >= length)


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Returns 1 where ours is higher, 0 where theirs is, 1/2 for a tie; the mean is the win rate.

    Raises:
        ValueError: the two differ in length.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"a win rate needs equal lengths, got {len(ours)} and {len(theirs)}")
    return [0.5 if a == b else float(a > b) for a, b in zip(ours, theirs, strict=True)]


def distinct_n(responses: Sequence[str], n: int = 2) -> float:
    """Returns distinct over all word n-grams of a *set* of responses (Li et al. 2016); 0 without any n-gram.

    It falls with the number of responses, so compare only sets of equal size.
    """
    grams = [gram for response in responses for gram in _ngrams(response, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def mean_distinct_n(responses: Sequence[str], n: int = 2) -> float:
    """Returns the mean of distinct over all n-grams *within* each response: 1 if none repeats itself.

    Responses with fewer than n words are left out; the result is 0 if none is left.
    """
    shares = [len(set(grams)) / len(grams) for response in responses if (grams := _ngrams(response, n))]
    return float(np.mean(shares)) if shares else 0.0


def distinct_2_interval(responses: Sequence[str], seed: int, n: int = 500) -> Interval:
    """Returns distinct-2 of a set of responses (one per prompt) with a 95 % interval from n subsamples.

    Drawing with replacement would duplicate responses and so lower the count. Instead each subsample is half of the
    responses, drawn *without* replacement, and the spread around the halves' mean is applied to the full set: for
    halves it equals the bootstrap's (the delete-half jackknife, Shao & Wu 1989).
    """
    value = distinct_n(responses)
    codes, owners = _bigram_codes(responses)
    if len(responses) < 2 or codes.size == 0:
        return Interval(value, value, value)
    rng = np.random.default_rng(seed)
    halves = np.empty(n)
    for row in range(n):
        kept = np.zeros(len(responses), dtype=bool)
        kept[rng.permutation(len(responses))[: len(responses) // 2]] = True
        drawn = codes[kept[owners]]
        halves[row] = np.unique(drawn).size / max(drawn.size, 1)
    low, high = np.quantile(halves - halves.mean(), [0.025, 0.975])
    return Interval(value, float(value + low), float(min(1.0, value + high)))


def best_of_n_kl(n: int) -> float:
    """Returns the KL of best-of-n sampling to the sampled model, in nats per response: ``log n - (n - 1) / n``.

    It is an upper bound if responses can be equal (Stiennon et al. 2020, arXiv 2009.01325; Gao et al. 2022).
    """
    if n < 1:
        raise ValueError(f"best-of-n needs n >= 1, got {n}")
    return math.log(n) - (n - 1) / n


def resamples(size: int, seed: int, n: int) -> Iterator[np.ndarray]:
    """Yields n rows of `size` indices drawn with replacement, in blocks (rows, size) of bounded memory."""
    if n < 1:
        raise ValueError(f"the number of resamples must be at least 1, got {n}")
    rng = np.random.default_rng(seed)
    rows = max(1, BLOCK // size)
    for start in range(0, n, rows):
        yield rng.integers(0, size, size=(min(rows, n - start), size))


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n-grams need n >= 1, got {n}")
    tokens = words(text)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def _bigram_codes(responses: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Every bigram of the set as an integer, and the index of its response."""
    vocabulary: dict[tuple[str, ...], int] = {}
    codes, owners = [], []
    for owner, response in enumerate(responses):
        for gram in _ngrams(response, 2):
            codes.append(vocabulary.setdefault(gram, len(vocabulary)))
            owners.append(owner)
    return np.asarray(codes, dtype=np.int64), np.asarray(owners, dtype=np.int64)
