"""Roles of tiny models that the parts of an iteration are tested with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lit_instruct.handover import prompter_of
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.roles import Roles
from lit_instruct.prompting import Prompter
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path]:
    run = tmp_path_factory.mktemp("run")
    sft = sft_folder(run / "sft", tiny_model)
    return sft, reward_folder(run / "rm", sft)


@pytest.fixture(scope="module")
def roles(stages: tuple[Path, Path]) -> Roles:
    """Roles whose policy has moved away from the reference."""
    sft, reward = (find_source(str(folder)) for folder in stages)
    roles = ppo_roles(sft, [reward], LoraOptions(r=4, alpha=8.0, top_layers=2), torch.float32)
    with torch.no_grad():
        for parameter in roles.parameters_of("policy"):
            parameter.mul_(1.2)
    return roles


@pytest.fixture(scope="module")
def prompter(stages: tuple[Path, Path]) -> Prompter:
    return prompter_of(find_source(str(stages[0])))
