"""The mean score of best-of-n, for every n from one pool of samples."""

from __future__ import annotations

import math

import numpy as np


def best_of_n(proxy: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Returns for each prompt the expected value of the sample that the proxy prefers among n: (P,).

    ``sum_i C(i, n - 1) / C(K, n) v_(i)``, with v_(i) the value of the sample with i others below it: the mean over all
    subsets of n of the K samples, which is unbiased (Nakano et al. 2021, appendix I; Gao et al. 2022).
    Of samples with equal proxies the first one is preferred.

    Args:
        proxy: (P, K) scores by which the best is chosen, higher is better.
        values: (P, K) scores of the same samples that are averaged.
        n: samples that are chosen from, 1 to K.

    Raises:
        ValueError: the shapes differ, or n is not in 1..K.
    """
    if proxy.ndim != 2 or proxy.shape != values.shape:
        raise ValueError(f"best-of-n needs two tables (prompts, samples), got {proxy.shape} and {values.shape}")
    samples = proxy.shape[1]
    if not 1 <= n <= samples:
        raise ValueError(f"best-of-n from a pool of {samples} samples needs n in 1..{samples}, got {n}")
    weights = np.array([math.comb(below, n - 1) / math.comb(samples, n) for below in range(samples)])
    # A stable sort of the reversed samples puts the first of equals last, where the best is.
    order = proxy[:, ::-1].argsort(axis=1, kind="stable")
    return np.take_along_axis(values[:, ::-1], order, axis=1) @ weights
