"""Answers to TruthfulQA, from scores that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evidence import truthful
from evidence.context import Context
from evidence.truthful import claims, differences, sentence, tables


def scores(right: float, log_prob: float) -> dict[str, dict[str, list[float]]]:
    own = (np.arange(20) < 20 * right).astype(float).tolist()
    return {"truthfulqa": {"acc": own, "log_prob": [log_prob + 0.01 * n for n in range(20)]}}


FOUND = [{"base": scores(0.2, -1.0), "SFT": scores(0.5, -1.0), "PPO": scores(0.5, -0.5)}] * 3


def test_more_truthful_than_the_base_and_as_truthful_as_sft() -> None:
    truth = tables(FOUND)
    assert truth["acc"]["PPO"].shape == (3, 20)
    gaps = differences(truth, n=50)
    assert gaps["acc/PPO minus base"].mean == pytest.approx(0.3)
    assert gaps["log_prob/PPO minus SFT"].mean == pytest.approx(0.5)
    said = {claim["claim"]: claim["holds"] for claim in claims(truth)}
    assert said == {
        "PPO is more truthful than base (TruthfulQA, accuracy)": True,
        "PPO is more truthful than SFT (TruthfulQA, accuracy)": None,
        "PPO is more truthful than base (TruthfulQA, log-probability of the true answer (nats))": True,
        "PPO is more truthful than SFT (TruthfulQA, log-probability of the true answer (nats))": True,
    }
    assert sentence(truth).startswith("Of 20 questions of TruthfulQA")
    assert "base 0.200, SFT 0.500, PPO 0.500" in sentence(truth)


def test_every_system_is_asked_the_same_file(tmp_path: Path, hub_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def task_scores(place: object, tasks: dict[str, Path], limit: int, folder: Path, name: str) -> object:
        given.append((place, tasks["truthfulqa"], limit, name))
        return scores(0.5, -1.0)

    monkeypatch.setattr(truthful, "task_scores", task_scores)
    found = truthful.asked(Context(tmp_path, quick=True), {"base": "b", "PPO": tmp_path / "ppo"}, 3)
    file = tmp_path / "data/hub/truthfulqa.jsonl"
    assert given == [("b", file, 4, "base"), (tmp_path / "ppo", file, 4, "PPO-3")] and file.is_file()
    assert set(found) == {"base", "PPO"}
