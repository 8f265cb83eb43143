"""Agreement on pairs of responses."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from evidence.agreement import agreed, mean_agreement


def test_by_hand() -> None:
    theirs = [[1.0, 2.0, 3.0], [1.0, 1.0, 2.0], [5.0, 5.0], [7.0]]
    ours = [[3.0, 1.0, 2.0], [0.0, 9.0, 0.0], [1.0, 2.0], [1.0]]
    # first prompt: one of three pairs; second: half a pair of two; the others have no pair
    assert agreed(ours, theirs).tolist() == pytest.approx([1 / 3, 0.25, 0.5, 0.5])


def test_equals_a_loop_over_pairs() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = (draw.integers(0, 4, (5, 6)).astype(float) for _ in range(2))
    for row, share in enumerate(agreed(ours.tolist(), theirs.tolist())):
        points = []
        for i, j in combinations(range(6), 2):
            if theirs[row, i] != theirs[row, j]:
                same = (ours[row, i] > ours[row, j]) == (theirs[row, i] > theirs[row, j])
                points.append(0.5 if ours[row, i] == ours[row, j] else float(same))
        assert share == pytest.approx(sum(points) / len(points))


def test_mean_over_people_by_hand() -> None:
    assert mean_agreement([[[1, 2, 3]], [[1, 3, 2]]]) == pytest.approx(2 / 3)
    assert mean_agreement([[[1, 2]], [[1, 2]], [[2, 1]]]) == pytest.approx(1 / 3)
