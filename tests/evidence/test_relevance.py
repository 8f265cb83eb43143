"""The judge that looks at what a response adds to its prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evidence.relevance import added, relevance

PAIRS = Path(__file__).parents[2] / "recipes/demo/labeler_pairs.jsonl"


def test_only_new_words_count() -> None:
    assert added("A red cat?", "A cat sleeps, A RED one!") == "sleeps one"
    assert added("A red cat?", "Red cat.") == ""


def test_the_score_is_the_cosine_of_the_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def embeddings(texts: Sequence[str]) -> np.ndarray:
        """One direction for texts about the sea, another for the rest."""
        asked.append([*texts])
        return np.array([[1.0, 0.0] if "sea" in text or "water" in text else [0.6, 0.8] for text in texts])

    monkeypatch.setattr("evidence.relevance.embeddings", embeddings)
    prompt = "What is the sea?"
    assert relevance([(prompt, "Much water."), (prompt, "The sea!"), (prompt, "Hm.")]) == pytest.approx([1.0, 0.6, 0.6])
    assert asked == [[prompt], ["much water", "", "hm"]]  # a prompt is embedded once


KINDS = {"generic", "echo", "off_topic", "unfinished", "harsh", "repetition"}


@pytest.mark.slow
def test_it_picks_right_responses_as_often_as_it_says() -> None:
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in pairs if row["kind"] in KINDS]
    assert len(rows) == 200
    better, worse = (relevance([(row["prompt"], row[side]) for row in rows]) for side in ("better", "worse"))
    assert np.mean(np.greater(better, worse)) == pytest.approx(0.78, abs=0.01)
