"""Curves of over-optimization from what was sampled: a pool of SFT's responses, and the validations of PPO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evidence.best_of_n import best_of_n
from evidence.fits import Curve
from evidence.samples import rows_of
from lit_instruct.errors import UserError
from lit_instruct.evaluation.measures import best_of_n_kl


class Pool(NamedTuple):
    """K samples of the SFT model for each of P prompts."""

    prompts: list[str]
    responses: list[list[str]]
    """K texts to each prompt."""
    gold: np.ndarray
    """(P, K) scores by the gold labeler."""


class Start(NamedTuple):
    """The SFT model itself, from which gains count: means over its samples."""

    proxy: np.ndarray
    """(P,) mean score of each prompt's samples by the reward that is optimised."""
    gold: np.ndarray
    """(P,) the same by the gold labeler."""
    unit: float
    """Standard deviation of the proxy over all samples: the unit of its gains, since reward models differ in scale."""


def read_pool(path: Path) -> Pool:
    """Returns the pool that `lit-instruct sample` wrote.

    Empty responses are left out there; every prompt keeps as many as the one that has fewest.
    """
    rows = rows_of(path)
    size = min(len(row["responses"]) for row in rows)
    gold = np.array([row["scores"][:size] for row in rows])
    return Pool([row["prompt"] for row in rows], [row["responses"][:size] for row in rows], gold)


def start_of(proxy: np.ndarray, gold: np.ndarray) -> Start:
    """Returns where a training starts, from the (P, K) scores of the pool."""
    return Start(proxy.mean(axis=1), gold.mean(axis=1), float(proxy.std()) or 1.0)


def best_of_n_curve(proxy: np.ndarray, gold: np.ndarray, sizes: Sequence[int]) -> Curve:
    """Returns the curve of best-of-n; its KL is ``log n - (n - 1) / n``.

    Args:
        proxy: (P, K) scores of the pool by the reward model that chooses.
        gold: (P, K) scores of the same responses by the gold labeler.
        sizes: V numbers n of samples to choose from, at most K.
    """
    start = start_of(proxy, gold)
    kl = np.array([[best_of_n_kl(n)] * len(gold) for n in sizes])
    proxies = np.array([(best_of_n(proxy, proxy, n) - start.proxy) / start.unit for n in sizes])
    return Curve(kl, proxies, np.array([best_of_n(proxy, gold, n) - start.gold for n in sizes]))


def ppo_curve(samples: Path, prompts: Sequence[str], start: Start) -> Curve:
    """Returns the curve of a PPO run along its validations.

    Args:
        samples: logs/samples.jsonl of the run: prompt, kl, reward and labeler of every validation sample.
        prompts: the P prompts that every validation answers, in the order of `start`.
        start: of the reward model or ensemble that the run optimises.

    Raises:
        UserError: a validation does not have every prompt once.
    """
    by_iteration: dict[int, dict[str, dict[str, Any]]] = {}
    rows = rows_of(samples)
    for row in rows:
        by_iteration.setdefault(row["iteration"], {})[row["prompt"]] = row
    complete = all(found.keys() == set(prompts) for found in by_iteration.values())
    if not complete or len(rows) != len(by_iteration) * len(prompts):
        raise UserError(
            f"{samples}: a validation does not have each of the {len(prompts)} prompts once; train it again"
        )
    ordered = [[found[prompt] for prompt in prompts] for _, found in sorted(by_iteration.items())]
    kl, reward, gold = (np.array([[r[key] for r in one] for one in ordered]) for key in ("kl", "reward", "labeler"))
    return Curve(kl, (reward - start.proxy) / start.unit, gold - start.gold)
