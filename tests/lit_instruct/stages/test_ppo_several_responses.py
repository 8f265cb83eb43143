"""PPO with several responses to each prompt, whose scores are compared with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_modules import PromptDataModule
from lit_instruct.batches import PromptBatch
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.checks import check_batch
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOOptimizerOptions, RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import Files, plain_trainer

LETTERS = "tests.lit_instruct.stages.rewards.letters"
LENGTH_OF_PROMPT = "tests.lit_instruct.stages.rewards.length_of_prompt"


def trained(folder: Path, files: Files, base: Path, reward: str, responses_per_prompt: int) -> PPOModule:
    """One iteration of 4 prompts, without a KL penalty and with a value function of 0."""
    module = PPOModule(
        str(base),
        iterations=1,
        lora=LoraOptions(top_layers=2),
        objective=ObjectiveOptions(
            minibatches=2, whiten_advantages=False, responses_per_prompt=responses_per_prompt, gae_lambda=1.0
        ),
        kl=KLOptions(0.0),
        reward=RewardOptions(None, reward, missing_eos_penalty=0.0),
        value=ValueOptions("zero_head"),
        optimizer=PPOOptimizerOptions(learning_rate=1e-2),
        sampling=SamplingOptions(max_new_tokens=6),
        dtype="float32",
    )
    data = PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=4)
    plain_trainer(folder, max_epochs=-1).fit(module, data)
    return module


def weights(module: PPOModule) -> list[Tensor]:
    """The policy's matrices that start at 0, unless they were trained."""
    named = module.roles.roles["policy"].network.named_parameters()
    return [p.detach() for name, p in named if "lora_B" in name and "policy" in name]


@pytest.mark.parametrize(("responses_per_prompt", "learns"), [(1, True), (2, False)])
def test_nothing_is_learnt_from_what_a_prompt_gives_all_its_responses(
    tmp_path: Path, files: Files, tiny_model: Path, responses_per_prompt: int, learns: bool
) -> None:
    module = trained(tmp_path, files, tiny_model, LENGTH_OF_PROMPT, responses_per_prompt)
    assert any(bool(p.any()) for p in weights(module)) == learns


def test_the_better_response_to_a_prompt_is_learnt_from(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    module = trained(tmp_path, files, tiny_model, LETTERS, 2)
    assert any(bool(p.any()) for p in weights(module))
    assert module.episodes_done == 8


def test_the_responses_to_a_prompt_differ(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    module = trained(tmp_path, files, tiny_model, LETTERS, 2)
    batch = next(iter(module.data.train_dataloader()))
    responses = module.collector.sample(batch.repeated(3), (0, 0)).responses
    assert len(responses) == 12
    assert all(len({tuple(ids) for ids in responses[i : i + 3]}) > 1 for i in range(0, 12, 3))
    again = module.collector.sample(batch.repeated(3), (0, 0)).responses
    assert responses == again


def test_minibatches_are_of_responses(files: Files) -> None:
    data: Any = type("Data", (), {"batch_size": 3, "world_size": 1, "train_dataset": range(9), "path": "prompts.jsonl"})
    check_batch(ObjectiveOptions(minibatches=4, responses_per_prompt=4), data)
    with pytest.raises(UserError, match="batch_size=3: 12 responses are not a multiple of .*minibatches=5, so steps"):
        check_batch(ObjectiveOptions(minibatches=5, responses_per_prompt=4), data)
    with pytest.raises(UserError, match=r"minibatches=13: more than the 3 prompts .* times .*responses_per_prompt=4;"):
        check_batch(ObjectiveOptions(minibatches=13, responses_per_prompt=4), data)
    with pytest.raises(UserError, match="responses_per_prompt=0"):
        ObjectiveOptions(responses_per_prompt=0)


def test_one_response_is_the_batch_itself() -> None:
    batch = PromptBatch(torch.ones(2, 3), torch.ones(2, 3).bool(), torch.tensor([4, 7]), ["a", "b"])
    assert batch.repeated(1) is batch
    twice = batch.repeated(2)
    assert twice.row_number.tolist() == [8, 9, 14, 15] and twice.rows == ["a", "a", "b", "b"]
    assert twice.prompt_ids.shape == (4, 3)
