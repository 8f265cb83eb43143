"""PPO: exact first ratios, invariance to micro-batches, the pretraining mix, penalties, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

import lit_instruct.ppo.update as ppo_update
from data_modules import PromptDataModule
from lit_instruct.batches import Rollout
from lit_instruct.errors import UserError
from lit_instruct.models.lora import LoraOptions
from lit_instruct.ppo.objective import KLOptions, ObjectiveOptions, ValueOptions
from lit_instruct.ppo.options import PPOMemoryOptions, PPOOptimizerOptions, PretrainingOptions, RewardOptions
from lit_instruct.ppo.targets import Target
from lit_instruct.ppo.update import Updater
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.ppo import PPOModule
from tests.lit_instruct.stages.helpers import Files, assert_equal, plain_trainer

LETTERS = "tests.lit_instruct.stages.rewards.letters"
OBJECTIVE = ObjectiveOptions(minibatches=1)
MEMORY = PPOMemoryOptions(micro_batch_size=3)
FAST = {
    "optimizer": PPOOptimizerOptions(learning_rate=1e-2, warmup_iterations=0),
    "value": ValueOptions(learning_rate=1e-2),
}
UNCLIPPED = ValueOptions(clip_range=None, learning_rate=1e-2)
OWN_REWARD = RewardOptions(None, LETTERS)


class _Figures(Callback):
    """The logged figures of every iteration."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.rows.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def train(
    folder: Path, files: Files, base: Path, more: dict[str, Any] | None = None, data: dict[str, Any] | None = None
) -> tuple[PPOModule, list[dict[str, float]]]:
    """A short training by Lightning alone."""
    given: dict[str, Any] = {
        "iterations": 1,
        "objective": OBJECTIVE,
        "memory": MEMORY,
        "lora": LoraOptions(top_layers=2),
        "sampling": SamplingOptions(max_new_tokens=6),
        "dtype": "float32",
        "reward": RewardOptions(str(base.parent / "rm")) if base.name == "sft" else OWN_REWARD,
    }
    module, figures = PPOModule(str(base), **(given | (more or {}))), _Figures()
    rows = PromptDataModule(**{"path": str(files.ppo), "validation_share": 0.0, "batch_size": 8, **(data or {})})
    plain_trainer(folder, callbacks=[figures], max_epochs=-1).fit(module, rows)
    return module, figures.rows


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Gradients of every optimizer step, before they are clipped."""
    kept: list[dict[str, Tensor]] = []
    clip = Updater.clip_gradients

    def keep(updater: Updater, optimizer: Any) -> Any:
        kept.append({name: p.grad.clone() for name, p in updater.roles.named_parameters() if p.grad is not None})
        return clip(updater, optimizer)

    monkeypatch.setattr(Updater, "clip_gradients", keep)
    return kept


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [LoraOptions(top_layers=2), LoraOptions(), None], ids=["top", "all layers", "full"])
def test_before_the_first_step_the_policy_is_the_one_that_sampled(
    tmp_path: Path, files: Files, trained: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, lora: LoraOptions | None
) -> None:
    seen, loss = [], ppo_update.clipped_policy_loss

    def keep(log_probs: Tensor, old: Tensor, *more: Any) -> Any:
        seen.append((log_probs.detach().clone(), old.clone()))
        return loss(log_probs, old, *more)

    monkeypatch.setattr(ppo_update, "clipped_policy_loss", keep)
    more = {"objective": ObjectiveOptions(minibatches=2), "memory": PPOMemoryOptions(micro_batch_size=2)}
    _, rows = train(tmp_path, files, trained / "sft", {"dtype": dtype, "lora": lora} | more)
    parts = len(seen) // 2
    assert all(torch.equal(*pair) for pair in seen[: max(1, parts - 1)])
    assert not all(torch.equal(*pair) for pair in seen)
    _, rows = train(tmp_path, files, trained / "sft", {"dtype": dtype, "lora": lora})
    assert rows[0]["ppo/clip_share"] == 0.0
    assert rows[0]["ppo/kl"] == (
        0.0 if lora is not None else pytest.approx(0.0, abs=0.05 if dtype == "bfloat16" else 0)
    )


@pytest.mark.parametrize("minibatches", [1, 4])
def test_micro_batches_do_not_change_the_update(
    tmp_path: Path, files: Files, trained: Path, gradients: list[dict[str, Tensor]], minibatches: int
) -> None:
    results, steps = [], []
    for size in (1, 3, 8):
        objective = ObjectiveOptions(minibatches=minibatches, inner_epochs=2)
        more = {"objective": objective, "memory": PPOMemoryOptions(micro_batch_size=size)}
        module, _ = train(tmp_path, files, trained / "sft", more)
        results.append({name: p.detach() for name, p in module.named_parameters() if p.requires_grad})
        steps.append(gradients[:])
        gradients.clear()
    assert len(steps[0]) == 2 * minibatches
    for other, result in zip(steps[1:], results[1:], strict=True):
        assert_equal(steps[0][0], other[0], 1e-5)
        assert_equal(results[0], result, 1e-5)


def test_the_pretraining_mix_adds_gamma_times_the_mean_loss(
    tmp_path: Path, files: Files, trained: Path, gradients: list[dict[str, Tensor]]
) -> None:
    data = {"pretraining_path": str(files.text), "pretraining_block": 16}
    train(tmp_path, files, trained / "sft", None, data)
    mixed = {"pretraining": PretrainingOptions(ptx_coef=3.0, ptx_batch_ratio=0.5)}
    _, rows = train(tmp_path, files, trained / "sft", mixed, data)
    fresh = PPOModule(
        str(trained / "sft"),
        lora=LoraOptions(top_layers=2),
        reward=RewardOptions(str(trained / "rm")),
        dtype="float32",
    )
    rows_module = PromptDataModule(str(files.ppo), **data)
    plain_trainer(tmp_path).validate(fresh, rows_module, verbose=False)
    blocks = rows_module.pretraining.batch(0, 4)  # 0.5 x 8 episodes
    fresh.roles.activate("policy")
    loss = fresh.roles.language_model("policy")(input_ids=blocks, labels=blocks).loss
    loss.backward()
    assert rows[0]["loss/pretraining"] == pytest.approx(float(loss), rel=1e-5)
    plain, with_text = gradients
    for name, parameter in fresh.roles.named_parameters():
        if ".policy." in name:
            torch.testing.assert_close(with_text[name] - plain[name], 3 * parameter.grad, rtol=0, atol=1e-6)
        elif name in plain:
            assert torch.equal(plain[name], with_text[name])  # the value function sees none of it


def test_the_mix_needs_a_text(tmp_path: Path, files: Files, trained: Path) -> None:
    with pytest.raises(UserError, match="--data.pretraining_path"):
        train(tmp_path, files, trained / "sft", {"pretraining": PretrainingOptions(ptx_coef=1.0)})


def test_a_cut_response_is_penalised_for_its_missing_end(
    tmp_path: Path, files: Files, trained: Path, targeted: list[tuple[Rollout, Target]]
) -> None:
    reward = RewardOptions(str(trained / "rm"), missing_eos_penalty=5.0)
    sampling = SamplingOptions(max_new_tokens=40)
    module, rows = train(tmp_path, files, trained / "sft", {"reward": reward, "sampling": sampling, "iterations": 3})
    ended, paid = [], []
    for rollout, target in targeted:
        last = rollout.response_ids.gather(1, rollout.response_length[:, None] - 1)[:, 0]
        ended += torch.isin(last, torch.tensor(module.prompter.stop_ids)).tolist()
        paid += (rollout.scores - target.scores).tolist()
    assert True in ended
    assert False in ended
    assert paid == pytest.approx([0.0 if end else 5.0 for end in ended], abs=1e-5)
    assert sum(row["ppo/eos_share"] for row in rows) / 3 == pytest.approx(sum(ended) / len(ended))


def test_it_learns_what_is_rewarded_and_the_kl_penalty_holds_it_back(
    tmp_path: Path, files: Files, tiny_model: Path
) -> None:
    def learn(kl_coef: float) -> list[dict[str, float]]:
        objective = ObjectiveOptions(minibatches=2, inner_epochs=2)
        more = {"iterations": 15, "objective": objective, "kl": KLOptions(kl_coef), "lora": None, **FAST}
        return train(tmp_path, files, tiny_model, more, {"batch_size": 16})[1]

    free, held = learn(0.0), learn(20.0)
    assert free[-1]["ppo/reward"] > 2 * free[0]["ppo/reward"] + 1
    assert free[-1]["ppo/kl"] > 1.0
    assert held[-1]["ppo/kl"] < free[-1]["ppo/kl"] / 4


def test_the_value_function_learns(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    optimizer = PPOOptimizerOptions(learning_rate=1e-6, warmup_iterations=0)
    more = {
        "iterations": 12,
        "optimizer": optimizer,
        "reward": RewardOptions(None, "tests.lit_instruct.stages.rewards.length_of_prompt", missing_eos_penalty=0.0),
        "objective": ObjectiveOptions(minibatches=2, inner_epochs=2),
        "kl": KLOptions(0.0),
        "value": UNCLIPPED,
    }
    _, rows = train(tmp_path, files, tiny_model, more, {"batch_size": 16})
    assert rows[-1]["loss/value"] < rows[0]["loss/value"] / 3
    assert rows[-1]["ppo/explained_variance"] > rows[0]["ppo/explained_variance"]


def test_without_a_reward_model_of_its_base_the_value_head_starts_at_zero(
    tmp_path: Path, files: Files, tiny_model: Path, targeted: list[tuple[Rollout, Target]]
) -> None:
    for lora in (LoraOptions(top_layers=2), None):
        train(tmp_path, files, tiny_model, {"lora": lora})
    assert targeted
    assert not any(rollout.values.any() for rollout, _ in targeted)


def test_with_one_it_starts_as_the_reward_model(
    tmp_path: Path, files: Files, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = PPOModule(
        str(trained / "sft"),
        lora=LoraOptions(top_layers=2),
        reward=RewardOptions(str(trained / "rm")),
        dtype="float32",
    )
    plain_trainer(tmp_path).validate(module, PromptDataModule(str(files.ppo)), verbose=False)
    assert torch.equal(module.roles.value_head.weight, module.roles.reward_heads[0].weight)
    weights = dict(module.named_parameters())
    pairs = [(name, name.replace(".value.", ".reward.")) for name in weights if ".value." in name]
    assert pairs
    assert all(torch.equal(weights[one], weights[other]) for one, other in pairs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises", "KeyError.*fix the function"),
        ("not_a_number", "nan for row 2"),
        ("too_few", "7 scores for 8 responses"),
        ("nobody", "nobody"),
    ],
)
def test_a_broken_reward_function_is_named(
    tmp_path: Path, files: Files, tiny_model: Path, name: str, message: str
) -> None:
    function = f"tests.lit_instruct.stages.rewards.{name}"
    with pytest.raises(UserError, match=message):
        train(tmp_path, files, tiny_model, {"reward": RewardOptions(None, function)})


def test_more_minibatches_than_prompts_are_refused(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    with pytest.raises(UserError, match="--model.objective.minibatches=9: more than the 8 prompts"):
        train(tmp_path, files, tiny_model, {"objective": ObjectiveOptions(minibatches=9)})


def test_the_rate_rises_from_a_tenth_and_stays() -> None:
    options = PPOOptimizerOptions(warmup_iterations=10)
    assert [options.share(i) for i in (0, 5, 10, 500)] == pytest.approx([0.1, 0.55, 1.0, 1.0])
    assert PPOOptimizerOptions(warmup_iterations=0).share(0) == 1.0


def test_the_rate_of_an_iteration_is_that_of_the_schedule(tmp_path: Path, files: Files, tiny_model: Path) -> None:
    optimizer = PPOOptimizerOptions(learning_rate=1e-3, warmup_iterations=3)
    used: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            used.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = PPOModule(str(tiny_model), 5, objective=OBJECTIVE, reward=OWN_REWARD, optimizer=optimizer, dtype="float32")
    trainer = plain_trainer(tmp_path, callbacks=[Rates()], max_epochs=-1)
    trainer.fit(module, PromptDataModule(str(files.ppo), validation_share=0.0, batch_size=8))
    assert used == pytest.approx([1e-4, 4e-4, 7e-4, 1e-3, 1e-3])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match="--model.objective.minibatches=0"):
        ObjectiveOptions(minibatches=0)
    with pytest.raises(UserError, match="--model.objective.clip_range"):
        ObjectiveOptions(clip_range=0.0)
    with pytest.raises(UserError, match="--model.reward.model"):
        RewardOptions(None)


def test_validation_samples_are_the_same_whatever_was_trained_before(
    tmp_path: Path, files: Files, tiny_model: Path
) -> None:
    figures = []
    for size in (2, 8):
        module = PPOModule(
            str(tiny_model), reward=OWN_REWARD, sampling=SamplingOptions(max_new_tokens=6), dtype="float32"
        )
        data = PromptDataModule(str(files.ppo), str(files.ppo_validation), batch_size=size)
        figures.append(plain_trainer(tmp_path).validate(module, data, verbose=False)[0])
    assert figures[0] == pytest.approx(figures[1], abs=1e-5)
    assert figures[0]["val/kl"] == 0.0
