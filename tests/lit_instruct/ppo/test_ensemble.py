"""An ensemble of reward models as roles on the policy's base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data_modules import PromptDataModule
from lit_instruct.errors import UserError
from lit_instruct.handover import prompter_of
from lit_instruct.losses.aggregate import Aggregate
from lit_instruct.models.assemble import ppo_roles
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.roles import reward_role
from lit_instruct.ppo.ensemble import Ensemble, check_ensemble
from lit_instruct.ppo.objective import ObjectiveOptions
from lit_instruct.ppo.options import RewardOptions
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.ppo.parts import batch_of, collector_of
from tests.lit_instruct.rollouts.stage_folders import reward_folder, sft_folder
from tests.lit_instruct.stages.helpers import Files, plain_trainer

BIASES = [0.5, -1.0, 0.25]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> list[Path]:
    """SFT, then three reward models whose heads differ."""
    run = tmp_path_factory.mktemp("run")
    sft = sft_folder(run / "sft", tiny_model)
    rewards = [reward_folder(run / f"rm-{number}", sft, seed=number) for number in (2, 3, 4)]
    for folder, bias in zip(rewards, BIASES, strict=True):
        record = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        (folder / "stage.json").write_text(json.dumps(record | {"reward_bias": bias}), encoding="utf-8")
    return [sft, *rewards]


@pytest.mark.parametrize("how", ["mean", "min", "mean_minus_std"])
def test_its_scores_are_those_of_its_members_alone(folders: list[Path], how: Aggregate) -> None:
    sft, *rewards = [find_source(str(folder)) for folder in folders]
    prompter, lora = prompter_of(sft), LoraOptions(r=4, alpha=8.0, top_layers=2)
    alone = []
    for reward, bias in zip(rewards, BIASES, strict=True):
        collector = collector_of(ppo_roles(sft, [reward], lora, torch.float32), prompter, ensemble=Ensemble([bias]))
        rollouts = collector.collect(batch_of(prompter), (0, 0))
        assert [part.reward_parts.shape[1] for part in rollouts.parts] == [1] * len(rollouts.parts)
        alone.append(torch.cat([part.scores for part in rollouts.parts]))
    together = ppo_roles(sft, rewards, lora, torch.float32)
    ensemble = collector_of(together, prompter, ensemble=Ensemble(BIASES, how, 0.5), with_std=True)
    rollouts = ensemble.collect(batch_of(prompter), (0, 0))
    scores, parts = (torch.cat([getattr(p, name) for p in rollouts.parts]) for name in ("scores", "reward_parts"))
    members = torch.stack(alone, dim=1)
    std = members.std(dim=1, correction=0)
    assert (std > 0.01).all()
    expected = {"mean": members.mean(1), "min": members.min(1).values, "mean_minus_std": members.mean(1) - 0.5 * std}
    torch.testing.assert_close(scores, expected[how], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts, torch.stack([expected[how], std], dim=1), atol=1e-5, rtol=1e-5)


def test_the_base_is_in_memory_once(folders: list[Path]) -> None:
    sft, *rewards = [find_source(str(folder)) for folder in folders]
    roles = ppo_roles(sft, rewards, LoraOptions(r=4, alpha=8.0, top_layers=2), torch.float32)
    assert len(roles.networks) == 1
    assert [reward_role(member) for member in range(3)] == ["reward", "reward_2", "reward_3"]
    assert set(roles.roles) == {"policy", "value", "reference", "reward", "reward_2", "reward_3"}


def train(folder: Path, files: Files, base: Path, reward: RewardOptions, **options: Any) -> PPOModule:
    module = PPOModule(
        str(base),
        iterations=2,
        objective=ObjectiveOptions(minibatches=2),
        reward=reward,
        sampling=SamplingOptions(max_new_tokens=6),
        dtype="float32",
        **({"lora": LoraOptions(r=4, alpha=8.0, top_layers=2)} | options),
    )
    data = PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=8)
    plain_trainer(folder, max_epochs=-1).fit(module, data)
    return module


def test_a_training_logs_how_much_its_members_disagree(tmp_path: Path, files: Files, folders: list[Path]) -> None:
    sft, *rewards = folders
    names = ",".join(map(str, rewards))
    module = train(tmp_path, files, sft, RewardOptions(names, ensemble="mean_minus_std"))
    figures = module.trainer.callback_metrics
    assert figures["ppo/reward/std"] > 0.01
    assert figures["ppo/reward"] == figures["ppo/reward/main"]
    assert list(module.parents) == ["sft", "reward", "reward_2", "reward_3"]


def test_what_cannot_be_an_ensemble_is_refused(
    tmp_path: Path, files: Files, folders: list[Path], tiny_model: Path
) -> None:
    sft, first, *_ = folders
    names = f"{first},{tiny_model}"
    with pytest.raises(UserError, match=r"an ensemble of 2: its members share the policy's base.*train with LoRA"):
        train(tmp_path, files, sft, RewardOptions(f"{first},{first}"), lora=None)
    sources = [find_source(name) for name in names.split(",")]
    with pytest.raises(UserError, match=rf"but {tiny_model} is a whole model; train it on that base"):
        check_ensemble(find_source(str(sft)), sources, with_lora=True)
    with pytest.raises(UserError, match=r"--model.reward.ensemble=min: needs several reward models"):
        RewardOptions(str(first), ensemble="min")
    other = json.loads((folders[2] / "stage.json").read_text(encoding="utf-8"))
    other["prompt_format"]["system"] = "Be brief."
    (folders[2] / "stage.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UserError, match=r"rm-3: it was trained with another prompt format .*Be brief"):
        train(tmp_path, files, sft, RewardOptions(f"{first},{folders[2]}"))
