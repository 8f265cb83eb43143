"""Data of the three stages, and one trained run that tests of the command line start from."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lit_instruct.labeling.browser import chromium
from tests.lit_instruct.stages.helpers import Files, fit


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; tests that need one are slow."""
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Files of tiny data; tests must not write into them."""
    return Files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, files: Files) -> Path:
    """Run folder with the three stages; tests must not write into it."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    assert fit("sft", run, files, f"--model.base={tiny_model}") == 0
    assert fit("rm", run, files, f"--data.demonstrations_path={files.sft}") == 0
    assert fit("ppo", run, files) == 0
    return run


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run to write into."""
    return Path(shutil.copytree(trained, tmp_path / "tiny"))
