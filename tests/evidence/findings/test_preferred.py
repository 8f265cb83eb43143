"""The finding of preferred from scores that are known, and the whole of it with --quick."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evidence.__main__ import main
from evidence.context import Context
from evidence.findings.preferred import Scores, intervals, judged, result
from evidence.held_out_people import HeldOut
from evidence.people import PEOPLE
from lit_instruct.evaluation.labelers import second_opinion
from tests.tiny import tiny_llama

GAINS = {"base": -0.5, "SFT": 0.0, "best-of-n": 0.2, "PPO": 0.5, "PPO-ptx": 0.0}


def scores(ppo: float = 0.5, other: float = 0.5) -> Scores:
    """Two judges, three seeds and forty prompts; the second judge's gain of PPO is `other`."""
    draw = np.random.default_rng(0)
    noise = {system: draw.normal(0, 0.3, (3, 40)) for system in GAINS}
    gains = [GAINS | {"PPO": ppo}, GAINS | {"PPO": other}]
    judges = ("pleasant words", "adds to the prompt")
    return {judge: {s: own[s] + noise[s] for s in GAINS} for judge, own in zip(judges, gains, strict=True)}


def held_out() -> HeldOut:
    table = np.full((3, 5, 5, 40), 0.75)
    table[:, range(5), range(5)] = 0.7
    return HeldOut(table, 0.74)


def test_win_rates_by_hand() -> None:
    table = {system: np.array([[0.0, 1.0, 2.0, 3.0]]) for system in GAINS}
    table["PPO"] = np.array([[1.0, 2.0, 2.0, 0.0]])
    found = intervals({"a": table, "b": table | {"PPO": table["SFT"]}}, n=20)
    assert found["a/PPO/wins"].mean == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert found["a/PPO/gain"].mean == pytest.approx((1 + 1 + 0 - 3) / 4)
    assert found["b/PPO/wins"] == (0.5, 0.5, 0.5)
    assert found["both/PPO/wins"].mean == pytest.approx((0.625 + 0.5) / 2)


def test_it_holds_if_both_judges_prefer_ppo(tmp_path: Path) -> None:
    found = result(Context(tmp_path), scores(), held_out())
    assert found.holds is True and found.ci_low > 0.5
    claims = {claim["claim"]: claim for claim in found.claims}
    assert claims['PPO-ptx is preferred to SFT by the judge "pleasant words"']["holds"] is None
    assert claims["a reward model orders pairs as a person does whom it has never seen"]["figure"] == pytest.approx(0.7)
    assert claims["it is less accurate on new people"]["figure"] == pytest.approx(0.05)
    assert "75.0 %" in found.verdict and "70.0 %" in found.verdict and "74 %" in found.done
    rows = {(row["judge"], row["system"]): row for row in found.rows}
    assert len(rows) == 10
    assert rows["adds to the prompt", "SFT"]["preferred to SFT"] == ""
    json.dumps([found.plots, found.claims])


@pytest.mark.parametrize(("other", "holds"), [(-0.5, False), (0.0, None)])
def test_it_does_not_hold_if_one_judge_does_not(tmp_path: Path, other: float, holds: bool | None) -> None:
    assert result(Context(tmp_path), scores(other=other), held_out()).holds is holds


def test_judges_see_the_answers_of_every_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    judges = {"words": second_opinion, "length": lambda pairs: [float(len(answer)) for _, answer in pairs]}
    monkeypatch.setattr("evidence.findings.preferred.JUDGES", judges)
    said = [{"SFT": ["Good.", "Bad."], "PPO": ["Great!", text]} for text in ("Fine.", "Awful!")]
    found = judged(["a", "b"], said)
    assert found["length"]["PPO"].tolist() == [[6.0, 5.0], [6.0, 6.0]]
    assert found["words"]["PPO"][1].tolist() == second_opinion([("a", "Great!"), ("b", "Awful!")])


@pytest.mark.slow
def test_quick(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", max_position_embeddings=2048)
    words = ["preferred", "--quick", "--runs", str(tmp_path / "runs"), "--base", str(base)]
    assert main(words) == 0
    stages = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("stage.json")}
    assert len(stages) == 4 + len(PEOPLE)
    assert main(words) == 0  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("stage.json")} == stages


def test_people_of_the_hub_are_told(tmp_path: Path) -> None:
    found = result(Context(tmp_path, source="hub"), scores(), held_out()._replace(agreement=None))
    assert "dialogues of HH-RLHF" in found.done and "TL;DR), dealt into 5 groups" in found.done


@pytest.mark.slow
def test_quick_with_files_in_place_of_the_hub(tmp_path: Path, hub_files: Path, sentence_model: Path) -> None:
    base = tiny_llama(tmp_path / "base", max_position_embeddings=2048)
    words = ["preferred", "--quick", "--source=hub", "--runs", str(tmp_path / "runs"), "--base", str(base)]
    assert main(words) == 0
    found = json.loads((tmp_path / "runs/results/preferred.json").read_text())
    assert "Stiennon" in found["done"] and len(found["rows"]) == 10
