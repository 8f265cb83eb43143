"""Packaged data and models made small."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from evidence import judge, reviews, sources
from evidence.reviews import Review
from tests.evidence.hub_files import hub_files

__all__ = ["hub_files"]

PLACES = ("France", "Paris", "the garden", "the sea")
FILMS = [f"Film {letter}{letter.lower()}" for letter in "ABCDEFGHIJKLMNOPQRST"]


def review(film: str, fresh: bool, number: int) -> Review:
    """A sentence of a few known words."""
    place = PLACES[number % len(PLACES)]
    return Review(film, fresh, f"{film} is {'wonderful' if fresh else 'a mat'} in {place} {number}.")


@pytest.fixture
def small_reviews(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Review]]:
    """Reviews of twenty films in place of the packaged ones."""
    made = [review(*one) for one in product(FILMS, (True, False), range(6))]
    parts = reviews.split(made)
    monkeypatch.setattr(reviews, "packaged", lambda: parts)
    return parts


@pytest.fixture
def sentence_model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder like that of the packaged sentence model."""
    folder = tmp_path / "package" / sources.SENTENCE_MODEL.files[0]
    folder.parent.parent.mkdir(parents=True)
    folder.parent.symlink_to(tiny_model)
    monkeypatch.setattr(sources, "unpacked", lambda package: tmp_path / "package")
    for kept in (judge.sentence_model, judge.judge):
        kept.cache_clear()
    yield folder.parent
    for kept in (judge.sentence_model, judge.judge):
        kept.cache_clear()
