"""Several reward models that share a base score as each of them does alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evidence.reward_scores import reward_scores
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.rollouts.text_reward import TextReward
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder

PROMPTS = ["What is the sea?", "Name a tree.", "Name a tree.", "Tell me of rain and wind."]
RESPONSES = ["Much water.", "Oak", "An oak tree, or a birch.", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[Path]:
    """SFT, then two reward models; the second adapts more layers."""
    run = tmp_path_factory.mktemp("run")
    sft = sft_folder(run / "sft", tiny_model)
    more = LoraOptions(r=4, alpha=8.0, top_layers=3)
    return [sft, reward_folder(run / "rm", sft), reward_folder(run / "rm-2", sft, more, seed=3)]


def test_scores_are_those_of_each_model_alone(folders: list[Path]) -> None:
    sft, *rewards = folders
    together = reward_scores(sft, rewards, PROMPTS, RESPONSES, dtype="float32")
    alone = [TextReward.from_source(str(reward), "float32").score(PROMPTS, RESPONSES) for reward in rewards]
    assert together == pytest.approx(np.array(alone), abs=1e-5)
    assert abs(together[0] - together[1]).min() > 1e-3
    assert reward_scores(sft, rewards[:1], PROMPTS, RESPONSES, dtype="float32") == pytest.approx(together[:1])


def test_a_reward_model_on_another_base_is_refused(folders: list[Path], tmp_path: Path) -> None:
    from tests.tiny import tiny_llama

    other = sft_folder(tmp_path / "sft", tiny_llama(tmp_path / "base", seed=1))
    with pytest.raises(UserError, match="adapters on the policy's base"):
        reward_scores(other, folders[1:2], PROMPTS, RESPONSES, dtype="float32")


def test_a_policy_without_an_adapter_is_refused(folders: list[Path], tiny_model: Path) -> None:
    with pytest.raises(UserError, match="no LoRA adapter"):
        reward_scores(tiny_model, folders[1:], PROMPTS, RESPONSES)
