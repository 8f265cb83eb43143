"""PPO beside its core: shaping of scores, divergence control, average policy, further rewards, a value head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_modules import PromptDataModule
from lit_instruct.batches import Rollout
from lit_instruct.errors import UserError
from lit_instruct.losses.advantages import generalized_advantages
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import (
    FurtherReward,
    PPOMemoryOptions,
    PPOOptimizerOptions,
    PretrainingOptions,
    RewardOptions,
    SelectionOptions,
)
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.ppo.targets import Target, Targets
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import Files, plain_trainer
from tests.lit_instruct.stages.test_ppo import FAST, OBJECTIVE, OWN_REWARD, train


def _scores(targeted: list[tuple[Rollout, Target]]) -> tuple[Tensor, Tensor, Tensor]:
    """Raw scores, shaped scores, and whether each response ended."""
    parts = [(rollout.scores, target.scores, rollout.ended) for rollout, target in targeted]
    raw, shaped, ended = (torch.cat(column) for column in zip(*parts, strict=True))
    return raw, shaped, ended


def test_scores_are_scaled_then_clipped_then_pay_for_a_missing_end(
    tmp_path: Path, files: Files, tiny_model: Path, targeted: list[tuple[Rollout, Target]]
) -> None:
    train(tmp_path, files, tiny_model, {"reward": replace(OWN_REWARD, scale=0.5, clip=1.0, missing_eos_penalty=3.0)})
    raw, shaped, ended = _scores(targeted)
    assert (0.5 * raw).abs().max() > 1
    torch.testing.assert_close(shaped, (0.5 * raw).clamp(-1, 1) - 3.0 * ~ended)


def test_a_cut_response_can_get_a_fixed_score(
    tmp_path: Path, files: Files, tiny_model: Path, targeted: list[tuple[Rollout, Target]]
) -> None:
    reward = replace(OWN_REWARD, missing_eos_score=-7.0, scale=2.0)
    sampling = SamplingOptions(max_new_tokens=40)
    train(tmp_path, files, tiny_model, {"reward": reward, "sampling": sampling, "iterations": 3})
    raw, shaped, ended = _scores(targeted)
    assert 0 < ended.sum() < len(ended)
    torch.testing.assert_close(shaped, torch.where(ended, 2 * raw, -7.0))


def test_scores_are_normalised_by_the_statistics_of_all_episodes_so_far(
    tmp_path: Path, files: Files, tiny_model: Path, targeted: list[tuple[Rollout, Target]]
) -> None:
    reward = replace(OWN_REWARD, normalize=True, missing_eos_penalty=0.0)
    more = {"reward": reward, "memory": PPOMemoryOptions(micro_batch_size=8), "iterations": 2}
    train(tmp_path, files, tiny_model, more)
    raw, scores, _ = _scores(targeted)
    first = raw[: len(raw) // 2]
    torch.testing.assert_close(scores[: len(first)], (first - first.mean()) / first.std())
    torch.testing.assert_close(scores[len(first) :], ((raw - raw.mean()) / raw.std())[len(first) :])


@pytest.mark.parametrize("whiten", [True, False])
def test_rewards_of_tokens_are_whitened_without_moving_their_mean(
    tmp_path: Path, files: Files, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, whiten: bool
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(rewards: Tensor, values: Tensor, mask: Tensor, *more: float) -> Any:
        seen.append((rewards, mask))
        return generalized_advantages(rewards, values, mask, *more)

    monkeypatch.setattr("lit_instruct.ppo.targets.generalized_advantages", keep)
    train(tmp_path, files, tiny_model, {"reward": replace(OWN_REWARD, whiten=whiten)})
    rewards = torch.cat([part[mask] for part, mask in seen])
    assert (abs(rewards.std().item() - 1) < 1e-3) == whiten
    assert rewards.mean() > 0.05


def test_advantages_can_stay_as_they_are() -> None:
    kept: dict[bool, Tensor] = {}
    for whiten in (True, False):
        rollouts = _random_rollouts()
        find = Targets(RewardOptions(), ObjectiveOptions(whiten_advantages=whiten), "k1", Ranks(torch.nn.Linear(1, 1)))
        targets, _ = find(rollouts, 0.02)
        kept[whiten] = torch.cat([t.advantages[r.response_mask] for t, r in zip(targets, rollouts, strict=True)])
    assert kept[True].mean().abs() < 1e-5
    torch.testing.assert_close((kept[False] - kept[False].mean()) / kept[False].std(), kept[True])


def test_returns_can_have_a_lambda_of_their_own() -> None:
    rollouts, ranks = _random_rollouts(), Ranks(torch.nn.Linear(1, 1))
    objective = ObjectiveOptions(gae_lambda=0.5, whiten_advantages=False)
    own, _ = Targets(RewardOptions(), objective, "k1", ranks)(rollouts, 0.0)
    apart, _ = Targets(RewardOptions(), objective, "k1", ranks, value_lambda=1.0)(rollouts, 0.0)
    assert torch.equal(apart[0].advantages, own[0].advantages)
    assert not torch.equal(apart[0].returns, own[0].returns)
    # With lambda 1, no discount and no KL penalty, every return is the score of the response.
    mask = rollouts[0].response_mask
    torch.testing.assert_close(apart[0].returns, torch.tensor([[2.0], [-1.0], [0.5]]) * mask)


def _random_rollouts() -> list[Rollout]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] * 3 + [False]])
    parts = {name: torch.randn(3, 4, generator=generator) * mask for name in ("log_probs", "values")}
    fields: dict[str, Any] = dict.fromkeys(Rollout._fields, torch.zeros(3))
    fields |= {
        "ended": torch.ones(3, dtype=torch.bool),
        "response_mask": mask,
        "reference_log_probs": torch.zeros(3, 4),
        "scores": torch.tensor([2.0, -1, 0.5]),
    }
    return [Rollout(**(fields | parts))]


def test_the_kl_coefficient_follows_its_target(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    more = {"iterations": 4, "objective": ObjectiveOptions(minibatches=2), "lora": None, **FAST}
    module, rows = train(tmp_path, files, tiny_model, more | {"kl": KLOptions(0.5, target=0.01, gain=0.5)})
    assert [row["ppo/kl_coef"] for row in rows] == pytest.approx([0.5, 0.45, *[row["ppo/kl_coef"] for row in rows[2:]]])
    for row, following in zip(rows, [*rows[1:], {"ppo/kl_coef": module.kl.coef}], strict=True):
        error = max(-0.2, min(0.2, (row["ppo/kl"] - 0.01) / 0.01))
        assert following["ppo/kl_coef"] == pytest.approx(row["ppo/kl_coef"] * (1 + 0.5 * error))
    assert module.kl.coef > 0.45  # the first iteration has no divergence, the later ones too much


@pytest.mark.parametrize("what", ["stop", "shrink"])
def test_passing_the_bound_stops_or_slows(
    tmp_path: Path, files: Files, tiny_model: Path, caplog: pytest.LogCaptureFixture, what: Any
) -> None:
    more = {"iterations": 6, "lora": None, "kl": KLOptions(0.0, bound=0.02, on_bound=what), **FAST}
    _, rows = train(tmp_path, files, tiny_model, more | {"objective": ObjectiveOptions(minibatches=2)})
    passed = [row["ppo/kl"] > 0.02 for row in rows]
    assert passed[0] is False
    assert True in passed
    assert caplog.text.count("exceeded --model.kl.bound=0.02") == sum(passed)
    if what == "stop":
        assert len(rows) == passed.index(True) + 1
    else:
        rates = [row["ppo/learning_rate"] for row in rows]
        assert rates == pytest.approx([1e-2 / 2 ** sum(passed[:number]) for number in range(6)])


def test_the_average_policy_is_measured_and_handed_over(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    held = {"validation_path": str(files.ppo_validation)}
    more: dict[str, Any] = {"iterations": 3, "lora": LoraOptions(top_layers=2)}
    kl = {}
    for decay in (None, 0.0, 0.999):
        fast = FAST | {"optimizer": replace(FAST["optimizer"], ema_decay=decay)}
        module, _ = train(tmp_path, files, tiny_model, more | fast, held)
        trained = [parameter.detach().clone() for parameter in module.roles.parameters_of("policy")]
        kl[decay] = module.trainer.validate(module, module.trainer.datamodule, verbose=False)[0]["val/kl"]
        assert all(map(torch.equal, trained, module.roles.parameters_of("policy")))
        (tmp_path / str(decay)).mkdir()
        module.save_model(tmp_path / str(decay))
    assert kl[None] == kl[0.0]  # an average without memory is the policy
    assert 0 < abs(kl[0.999]) < abs(kl[None]) / 5
    saved = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("None", "0.0", "0.999")]
    assert saved[0] == saved[1] != saved[2]


def test_further_rewards_are_trained_on_and_logged_apart(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    further = [FurtherReward("length", function="tests.lit_instruct.stages.rewards.length_of_prompt", weight=0.5)]
    _, (row,) = train(tmp_path, files, tiny_model, {"reward": replace(OWN_REWARD, further=further)})
    assert row["ppo/reward/length"] > 1
    assert row["ppo/reward"] == pytest.approx(row["ppo/reward/main"] + 0.5 * row["ppo/reward/length"], rel=1e-5)


def test_validation_reports_by_use_case(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    prompts = tmp_path / "cases.jsonl"
    prompts.write_text(
        '{"prompt": "Hello", "use_case": "chat"}\n{"prompt": "Hi", "use_case": "chat"}\n{"prompt": "Add 1 and 2"}\n'
    )
    judge = "tests.lit_instruct.stages.rewards.length_of_prompt"
    module = PPOModule(str(tiny_model), reward=OWN_REWARD, selection=SelectionOptions(labeler=judge), dtype="float32")
    data = PromptDataModule(str(files.ppo), str(prompts))
    found = plain_trainer(tmp_path).validate(module, data, verbose=False)[0]
    assert found["val/labeler/chat"] == pytest.approx(0.35)
    assert found["val/labeler"] == pytest.approx((5 + 2 + 11) / 30)
    assert found["val/reward"] != found["val/reward/chat"]


@pytest.mark.parametrize("lora", [LoraOptions(top_layers=2), None], ids=["lora", "full"])
def test_a_value_head_on_the_policys_trunk(tmp_path: Path, files: Files, trained: Path, lora: Any) -> None:
    more = {"lora": lora, "iterations": 3, **FAST, "value": replace(FAST["value"], start="policy_trunk")}
    module, rows = train(tmp_path, files, trained / "sft", more)
    assert [parameter.shape for parameter in module.roles.parameters_of("value")] == [(1, 32), (1,)]
    assert not any(".value." in name for name, _ in module.named_parameters())
    assert module.roles.value_head.weight.abs().sum() > 0
    assert rows[0]["ppo/clip_share"] == 0.0


def test_an_entropy_bonus_keeps_distributions_wide(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    entropies = []
    for coef in (0.0, 5.0):
        more = {"iterations": 8, "lora": None, "objective": replace(OBJECTIVE, entropy_coef=coef), **FAST}
        entropies.append(train(tmp_path, files, tiny_model, more, {"batch_size": 16})[1][-1]["ppo/entropy"])
    assert entropies[1] > entropies[0] + 0.1


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (RewardOptions, {"clip": 0.0}, "--model.reward.clip=0.0"),
        (ValueOptions, {"coef": 0.0}, "--model.value.coef=0.0"),
        (KLOptions, {"target": -1.0}, "--model.kl.target=-1.0"),
        (KLOptions, {"target": 6.0, "bound": 5.0}, "must be above --model.kl.target=6.0"),
        (KLOptions, {"coef": -0.1}, "--model.kl.coef=-0.1"),
        (PPOOptimizerOptions, {"ema_decay": 1.0}, "--model.optimizer.ema_decay=1.0"),
        (PretrainingOptions, {"ptx_coef": -1.0}, "--model.pretraining.ptx_coef=-1.0"),
        (PretrainingOptions, {"ptx_batch_ratio": 0.0}, "ptx_batch_ratio=0.0.*--model.pretraining.ptx_coef=0"),
        (FurtherReward, {"name": "x"}, "'x' needs either a model or a function"),
        (FurtherReward, {"name": "x", "model": "a", "function": "b"}, "'x' needs either a model or a function"),
    ],
)
def test_impossible_options_are_refused(options: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options(**values)


@pytest.mark.parametrize("lora", [LoraOptions(top_layers=2), None], ids=["lora", "full"])
def test_a_value_function_can_start_as_the_reward_models_trunk_with_a_head_of_zeros(
    tmp_path: Path, files: Files, trained: Path, targeted: list[tuple[Rollout, Target]], lora: Any
) -> None:
    module, _ = train(
        tmp_path, files, trained / "sft", {"value": ValueOptions("zero_head"), "lora": lora, "iterations": 2}
    )
    (first, _), (second, _) = targeted[0], targeted[-1]
    assert not first.values.any()
    assert second.values.any()
    assert not module.roles.value_on_policy
