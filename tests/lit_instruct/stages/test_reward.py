"""The reward stage against TRL's own RewardTrainer, and its loss under accumulation."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from trl import RewardConfig, RewardTrainer

from data_modules import RankedComparisonDataModule
from lit_instruct.models.lora import LoraOptions
from lit_instruct.stages.options import OptimizerOptions, PromptOptions
from lit_instruct.stages.reward import RewardModule
from lit_instruct.trl_bridge import RewardLossOptions
from tests.lit_instruct.stages.helpers import (
    Watch,
    assert_equal,
    comparisons,
    demonstrations,
    plain_trainer,
    sentence,
    write_rows,
)
from tests.lit_instruct.stages.trl_side import CONSTANT, train_by_trl


class _First(Callback):
    """Keeps the network as it is before training."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.network = copy.deepcopy(pl_module.network)


def train(
    folder: Path, model: Path, data: dict[str, Any], module: dict[str, Any], **options: Any
) -> tuple[RewardModule, Watch, Any]:
    """One short training by Lightning alone."""
    watch, first = Watch(), _First()
    given = {"lora": LoraOptions(top_layers=2), "optimizer": CONSTANT, "dtype": "float32"} | module
    stage = RewardModule(str(model), **given)
    rows = RankedComparisonDataModule(**({"validation_share": 0.0, "batch_size": 4} | data))
    plain_trainer(folder, callbacks=[watch, first], **({"max_steps": 1} | options)).fit(stage, rows)
    return stage, watch, first.network


@pytest.mark.parametrize("center", [None, 0.1])
def test_three_steps_with_two_responses_equal_trl(tmp_path: Path, tiny_model: Path, center: float | None) -> None:
    draw = random.Random(0)
    rows = []
    for i in range(12):
        best, worst = f" {sentence(draw, 1, 5)} {i}", f" {sentence(draw, 1, 5)} {i} bad"
        swap = i % 2
        rows.append(
            {"prompt": sentence(draw), "responses": [best, worst][:: -1 if swap else 1], "ranks": [1 + swap, 2 - swap]}
        )
    module = {"lora": None, "prompt": PromptOptions("raw"), "trl": RewardLossOptions(center_rewards_coefficient=center)}
    data = {"path": str(write_rows(tmp_path / "rows.jsonl", rows))}
    stage, watch, network = train(tmp_path, tiny_model, data, module, max_steps=3)
    order = [row for batch in stage.trainer.datamodule.train_sampler.batches(0) for row in batch]
    pairs = []
    for i in order:
        answers = rows[i]["responses"][:: 1 if rows[i]["ranks"][0] == 1 else -1]
        pairs.append({"prompt": rows[i]["prompt"], "chosen": answers[0], "rejected": answers[1]})
    options = {"center_rewards_coefficient": center}
    trainer, steps = train_by_trl(RewardTrainer, RewardConfig, network, tmp_path, tiny_model, pairs, **options)
    for own, their in zip(watch.gradients, steps, strict=True):
        assert_equal(own, their, 5e-6)
    assert_equal(dict(stage.network.state_dict()), dict(trainer.model.state_dict()), 2e-5)


@pytest.mark.parametrize("center", [None, 0.1])
def test_accumulated_micro_batches_equal_one_batch(tmp_path: Path, tiny_model: Path, center: float | None) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl", comparisons(12)))
    module = {"trl": RewardLossOptions(center_rewards_coefficient=center)}
    epoch = {"max_epochs": 1, "max_steps": -1}
    one, whole, _ = train(tmp_path, tiny_model, {"path": path, "batch_size": 8}, module, **epoch)
    data = {"path": path, "batch_size": 2}
    other, parts, _ = train(tmp_path, tiny_model, data, module, **epoch, accumulate_grad_batches=4)
    assert len(whole.gradients) == len(parts.gradients) == 2
    for own, their in zip(whole.gradients, parts.gradients, strict=True):
        assert_equal(own, their, 1e-6)
    assert_equal(dict(one.network.state_dict()), dict(other.network.state_dict()), 1e-5)


def test_the_bias_makes_demonstrations_score_zero(tmp_path: Path, tiny_model: Path) -> None:
    shown = str(write_rows(tmp_path / "shown.jsonl", demonstrations(9)))
    data = {"path": str(write_rows(tmp_path / "rows.jsonl", comparisons(8))), "demonstrations_path": shown}
    stage, _, _ = train(tmp_path, tiny_model, data, {})
    stage.set_bias()
    batches = stage.trainer.datamodule.demonstration_batches()
    with torch.no_grad():
        logits = [stage.network(input_ids=b.input_ids, attention_mask=b.attention_mask.long()).logits for b in batches]
    scores = torch.cat(logits).squeeze(-1) + stage.bias
    assert len(scores) == 9
    assert float(stage.bias) != 0
    assert float(scores.mean()) == pytest.approx(0, abs=1e-6)


def test_validation_counts_pairs_and_prompts_not_batches(tmp_path: Path, tiny_model: Path) -> None:
    path, figures = str(write_rows(tmp_path / "rows.jsonl", comparisons(12))), []
    for size in (1, 6):
        stage = RewardModule(str(tiny_model), dtype="float32")
        data = RankedComparisonDataModule(path, validation_share=0.5, batch_size=size)
        figures.append(plain_trainer(tmp_path).validate(stage, data, verbose=False)[0])
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


def test_it_learns_which_word_is_liked(tmp_path: Path, tiny_model: Path) -> None:
    draw, rows = random.Random(0), []
    for i in range(24):
        rest = sentence(draw, 1, 3)
        rows.append({"prompt": f"{sentence(draw)} {i}", "responses": [f"{rest} bad", f"{rest} good"], "ranks": [2, 1]})
    data = {"path": str(write_rows(tmp_path / "rows.jsonl", rows)), "validation_share": 0.25}
    module = {"optimizer": OptimizerOptions(learning_rate=1e-2)}
    stage, _, _ = train(tmp_path, tiny_model, data, module, max_steps=-1, max_epochs=6)
    assert float(stage.trainer.callback_metrics["val/pair_accuracy"]) == 1.0
