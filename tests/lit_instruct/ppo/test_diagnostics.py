"""Each diagnostic is provoked by a real small training; a healthy one raises none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import lit_instruct.ppo.diagnostics as diagnostics
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.roles import Roles
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOOptimizerOptions, RewardOptions, SelectionOptions
from lit_instruct.rollouts.generate import SamplingOptions
from tests.lit_instruct.stages.helpers import Files
from tests.lit_instruct.stages.test_ppo import FAST, UNCLIPPED, train

REWARDS = "tests.lit_instruct.stages.rewards"


def reward(name: str) -> RewardOptions:
    """A function of that name, with no penalty for a missing EOS."""
    return RewardOptions(None, f"{REWARDS}.{name}", missing_eos_penalty=0.0)


@pytest.fixture
def faults(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains full weights of the tiny model on a reward function and returns the faults that were logged."""
    monkeypatch.setattr(diagnostics, "WINDOW", 2)
    monkeypatch.setattr(diagnostics, "VALUE_ITERATIONS", 8)

    def logged(folder: Path, files: Files, base: Path, more: dict[str, Any], data: dict[str, Any] | None = None) -> str:
        given = {"lora": None, "iterations": 8, "objective": ObjectiveOptions(minibatches=2), **FAST} | more
        train(folder, files, base, given, {"batch_size": 16} | (data or {}))
        return "\n".join(r.getMessage() for r in caplog.records if r.getMessage().startswith("PPO: "))

    return logged


def test_a_healthy_training_raises_none(faults: Any, tmp_path: Path, files: Files, tiny_model: Path) -> None:
    more = {
        "iterations": 12,
        "objective": ObjectiveOptions(minibatches=2, inner_epochs=2),
        "kl": KLOptions(0.1),
        "reward": reward("letters_and_prompt"),
        "value": UNCLIPPED,
    }
    assert faults(tmp_path, files, tiny_model, more) == ""


def test_the_first_ratio(
    faults: Any, tmp_path: Path, files: Files, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = Roles.hidden

    def noisy(self: Roles, *arguments: Any) -> Tensor:
        found = hidden(self, *arguments)
        return found + 0.1 * torch.randn_like(found)  # such as dropout left on

    monkeypatch.setattr(Roles, "hidden", noisy)
    assert "before the first step a ratio is off by" in faults(tmp_path, files, tiny_model, {"iterations": 1})


def test_negative_kl(faults: Any, tmp_path: Path, files: Files, tiny_model: Path) -> None:
    # Greedy responses of a policy that is pushed towards uniform: their tokens are likelier under the reference.
    more = {
        "objective": ObjectiveOptions(minibatches=2, entropy_coef=20.0),
        "sampling": SamplingOptions(max_new_tokens=6, top_k=1),
    }
    assert "which no divergence can be" in faults(tmp_path, files, tiny_model, more)


def test_equal_advantages(faults: Any, tmp_path: Path, files: Files, tiny_model: Path) -> None:
    more = {
        "reward": reward("constant"),
        "sampling": SamplingOptions(max_new_tokens=1),
        "iterations": 1,
    }
    assert "all advantages are equal" in faults(tmp_path, files, tiny_model, more)


def test_an_eos_share_that_collapses_and_a_length_that_explodes(
    faults: Any, tmp_path: Path, files: Files, tiny_model: Path
) -> None:
    ends_early = tmp_path / "ends_early"
    shutil.copytree(tiny_model, ends_early)
    model = AutoModelForCausalLM.from_pretrained(ends_early)
    with torch.no_grad():  # the head of the EOS makes it all or nothing, by the state
        model.get_output_embeddings().weight[model.config.eos_token_id] *= 30
    model.save_pretrained(ends_early)
    more = {
        "reward": reward("length"),
        "sampling": SamplingOptions(max_new_tokens=30),
        "objective": ObjectiveOptions(minibatches=4, inner_epochs=2),
        "kl": KLOptions(0.0),
        "value": UNCLIPPED,
        "iterations": 12,
    }
    found = faults(tmp_path, files, ends_early, more)
    assert "hitting the length limit is being rewarded" in found
    assert "the reward likes length" in found


def test_a_value_function_that_explains_nothing(faults: Any, tmp_path: Path, files: Files, tiny_model: Path) -> None:
    more = {
        "reward": RewardOptions(None, f"{REWARDS}.length_of_prompt"),
        "optimizer": PPOOptimizerOptions(learning_rate=1e-6, warmup_iterations=0),
        "value": ValueOptions(learning_rate=1.0),
    }
    assert "the value function explains nothing" in faults(tmp_path, files, tiny_model, more)


def test_a_labeler_that_falls_while_the_reward_rises(
    faults: Any, tmp_path: Path, files: Files, tiny_model: Path
) -> None:
    more = {
        "selection": SelectionOptions(labeler=f"{REWARDS}.few_letters"),
        "objective": ObjectiveOptions(minibatches=2, inner_epochs=2),
        "kl": KLOptions(0.0),
    }
    found = faults(tmp_path, files, tiny_model, more | {"iterations": 12}, {"validation_path": str(files.ppo)})
    assert "the policy exploits the reward model" in found


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_a_reward_model_that_was_never_calibrated(
    faults: Any, tmp_path: Path, files: Files, trained: Path, bias: float
) -> None:
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("ppo", "logs", "checkpoints"))
    record = json.loads((run / "rm" / "stage.json").read_text())
    (run / "rm" / "stage.json").write_text(json.dumps(record | {"reward_bias": bias}))
    more = {"lora": LoraOptions(top_layers=2), "iterations": 1, "objective": ObjectiveOptions(minibatches=1)}
    assert ("was never calibrated" in faults(tmp_path, files, run / "sft", more)) == (bias == 0.0)


def test_each_fault_is_said_once() -> None:
    watching = diagnostics.Diagnostics(max_new_tokens=10)
    figures = dict.fromkeys(("ppo/eos_share", "ppo/response_length", "ppo/explained_variance", "ppo/kl"), 1.0)
    broken = figures | {"ppo/first_ratio_error": 0.5, "ppo/advantage_std": 1.0}
    assert len(watching.iteration(broken)) == 1
    assert watching.iteration(broken) == []
    resumed = diagnostics.Diagnostics(max_new_tokens=10)
    resumed.load(watching.state())
    assert resumed.iteration(broken) == []
    assert resumed.count == 3
