"""Scores at equal KL: interpolated along the mean KL, with the same prompts resampled in both runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence.equal_kl import Validations, gain_at_equal_kl, read_validations, score_at
from lit_instruct.errors import UserError

PROMPTS = [f"p{i}" for i in range(40)]


def run(points: list[tuple[float, float]], seed: int = 0) -> Validations:
    """Validations with these mean KLs and scores; prompts differ."""
    draw = np.random.default_rng(seed)
    spread = draw.normal(size=len(PROMPTS))
    spread -= spread.mean()
    kl = np.array([[kl] * len(PROMPTS) for kl, _ in points])
    return Validations(PROMPTS, [*range(len(points))], kl, np.array([score + 0.2 * spread for _, score in points]))


def test_the_score_is_interpolated() -> None:
    everyone = np.arange(len(PROMPTS))[None]
    curve = run([(3.0, 0.6), (1.0, 0.2)])
    assert [float(score_at(curve, kl, everyone)[0]) for kl in (0.5, 1.5, 4.0)] == pytest.approx([0.2, 0.3, 0.6])


def test_runs_are_compared_at_the_largest_kl_that_both_reach() -> None:
    found = gain_at_equal_kl(run([(1.0, 0.2), (2.0, 0.5)]), run([(1.0, 0.1), (4.0, 0.4)]), seed=0)
    assert found is not None
    assert (found["kl"], found["ours"], found["theirs"]) == (2.0, 0.5, 0.2)
    assert found["mean"] == pytest.approx(0.3) == pytest.approx(found["ci_low"]) == pytest.approx(found["ci_high"])


def test_the_interval_is_over_prompts() -> None:
    found = gain_at_equal_kl(run([(1.0, 0.2), (2.0, 0.5)]), run([(1.0, 0.1), (2.0, 0.4)], seed=1), seed=0)
    assert found is not None
    assert found["ci_low"] < 0.1 < found["ci_high"] and found["ci_high"] - found["ci_low"] > 0.05


def test_runs_that_never_reach_the_same_kl_are_not_compared() -> None:
    assert gain_at_equal_kl(run([(1.0, 0.2), (2.0, 0.5)]), run([(3.0, 0.1), (4.0, 0.4)]), seed=0) is None


def test_other_prompts_are_refused() -> None:
    one = run([(1.0, 0.2)])
    with pytest.raises(UserError, match="different prompts"):
        gain_at_equal_kl(one, one._replace(prompts=PROMPTS[::-1]), seed=0)


def test_validations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    rows = [{"prompt": p, "iteration": i, "kl": i + j, "labeler": 0.1 * j} for i in (3, 6) for j, p in enumerate("ba")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_validations(path)
    assert (found.prompts, found.iterations) == (["a", "b"], [3, 6])
    assert found.kl.tolist() == [[4, 3], [7, 6]] and found.score[0].tolist() == [0.1, 0.0]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    with pytest.raises(UserError, match="not every prompt"):
        read_validations(path)
