"""Stage folders that tests of roles start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lit_instruct.models.tiny_roles import Folders
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Folders:
    run = tmp_path_factory.mktemp("run")
    sft = sft_folder(run / "sft", tiny_model)
    return Folders(tiny_model, sft, reward_folder(run / "rm", sft))
