"""The finding of the reward model from scores that are known, and the whole of it with --quick."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence import hub, right_answers, sources
from evidence.__main__ import main
from evidence.baselines import Agreement
from evidence.context import Context
from evidence.findings.reward_model import Scored, Task, result
from evidence.reviews import Review

ROWS = [{"prompt": "Review it.", "responses": ["Good.", "Bad."], "ranks": [1, 2]}] * 100


def agreed(share: float) -> Agreement:
    """A hundred comparisons of a pair, of which the first `share` are in people's order."""
    return Agreement((np.arange(100) < 100 * share).astype(float), np.ones(100))


def scored(data: str, size: int, shares: list[float], words: float) -> Scored:
    task = Task(data, size, [], ROWS[:8], ROWS)
    return Scored(task, [agreed(share) for share in shares], {"length": agreed(0.5), "tf-idf": agreed(words)})


def test_the_size_with_several_seeds_is_the_main_figure(tmp_path: Path) -> None:
    found = result(
        Context(tmp_path),
        [
            scored("reviews", 100, [0.7], 0.6),
            scored("reviews", 200, [0.8, 0.9, 1.0], 0.65),
            scored("reviews", 400, [0.95], 0.7),
            scored("piqa", 400, [0.5], 0.52),
            scored("nq", 400, [0.3], 0.6),
        ],
    )
    assert found.holds is True and found.figure == pytest.approx(0.9)
    assert found.ci_low < 0.9 < found.ci_high
    holds = {claim["claim"].split(":")[0]: claim["holds"] for claim in found.claims}
    assert holds == {
        "fresh or rotten (critics), 100 comparisons": True,
        "fresh or rotten (critics), 200 comparisons": True,
        "fresh or rotten (critics), 400 comparisons": True,
        "right or wrong (PIQA), 400 comparisons": None,
        "right or wrong (NQ-open), 400 comparisons": False,
    }
    assert "With 200 comparisons" in found.verdict and "tf-idf 0.65" in found.verdict
    assert "(PIQA): 0.50" in found.verdict and "not clearly above the baselines" in found.verdict
    assert "below the baselines" in found.verdict
    rows = {(row["labels"], row["comparisons"]): row for row in found.rows}
    assert rows["fresh or rotten (critics)", 200]["seeds"] == 3
    assert rows["right or wrong (PIQA)", 400]["tf-idf"] == "0.52"
    (plot,) = found.plots
    points = plot["lines"][0]["points"]
    assert [point[:2] for point in points] == [[100, 0.7], [200, 0.9], [400, 0.95]]
    assert all(low < value < high for _, value, low, high in points)
    json.dumps([found.rows, found.claims, found.plots])


def test_without_more_than_the_baselines_it_does_not_hold(tmp_path: Path) -> None:
    assert result(Context(tmp_path), [scored("reviews", 200, [0.7], 0.7)]).holds is None
    assert result(Context(tmp_path), [scored("reviews", 200, [0.3], 0.7)]).holds is False


@pytest.mark.slow
def test_the_whole_of_it_quickly(
    tiny_model: Path, small_reviews: dict[str, list[Review]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = {
        "piqa": [
            {"question": f"Goal {n}", "options": "A. Paris.\nB. France.", "answer": "A. Paris."} for n in range(30)
        ],
        "nq": [{"question": f"q {n}", "answer": ["Paris"], "def_incorrect_predictions": ["France"]} for n in range(30)],
    }
    for name, (file, _) in right_answers.READERS.items():
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in questions[name]))
    monkeypatch.setattr(sources, "unpacked", lambda package: tmp_path)
    monkeypatch.setattr(right_answers, "HELD_OUT", 10)
    runs = tmp_path / "runs"
    assert main(["reward_model", "--quick", "--base", str(tiny_model), "--runs", str(runs)]) == 0
    found = json.loads((runs / "results/reward_model.json").read_text())
    assert [row["labels"] for row in found["rows"]] == [
        "fresh or rotten (critics)",
        "right or wrong (PIQA)",
        "right or wrong (NQ-open)",
    ]
    assert 0 <= found["ci_low"] <= found["figure"] <= found["ci_high"] <= 1


@pytest.mark.slow
def test_comparisons_of_the_hub_quickly(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialogue = "\n\nHuman: What is the capital of France {}?\n\nAssistant: "
    rows = [
        {side: dialogue.format(n) + text for side, text in zip(("chosen", "rejected"), ("Paris.", "Cat."), strict=True)}
        for n in range(20)
    ]
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(
        hub, "HH_RLHF", {"training": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    )
    words = ["reward_model", "--quick", "--source", "hub", "--base", str(tiny_model), "--runs", str(tmp_path / "runs")]
    assert main(words) == 0
    found = json.loads((tmp_path / "runs/results/reward_model.json").read_text())
    assert [row["labels"] for row in found["rows"]] == ["helpful and harmless (HH-RLHF)"]
    assert "HH-RLHF" in found["unit"] and "a conversation (HH-RLHF), measured on 4 others" in found["done"]
