"""What the tests of `lit-instruct rm score` share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_instruct.commands import score as scoring
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A run folder with SFT and a reward model."""
    folder = tmp_path_factory.mktemp("scoring") / "demo"
    reward_folder(folder / "rm", sft_folder(folder / "sft", tiny_model))
    return folder


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Four rows at a time."""
    monkeypatch.setattr(scoring, "WINDOW", 4)
    yield
