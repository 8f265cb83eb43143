"""Fixtures: runs that were never stopped, to compare resumed runs with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.resume.helpers import FULL, Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Runs:
    """Starts runs on the same data."""
    return Runs(tmp_path_factory.mktemp("resume"), tiny_model)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Path:
    """The folder of a run with LoRA; tests must not write to it."""
    folder = tmp_path_factory.mktemp("whole")
    assert runs.fit(folder) == 0
    return folder


@pytest.fixture(scope="session")
def whole_full(tmp_path_factory: pytest.TempPathFactory, runs: Runs) -> Path:
    """The folder of a run that trained every weight; tests must not write to it."""
    folder = tmp_path_factory.mktemp("whole_full")
    assert runs.fit(folder, *FULL) == 0
    return folder
