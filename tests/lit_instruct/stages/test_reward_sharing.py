"""The reward stage gives the same result for shared prompts, groups of prompts and margins."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import RewardConfig, RewardTrainer

from lit_instruct.errors import UserError
from lit_instruct.models.activations import MemoryOptions
from lit_instruct.models.lora import LoraOptions
from lit_instruct.stages.options import PromptOptions
from lit_instruct.stages.reward import RewardModule
from tests.lit_instruct.stages.helpers import assert_equal, comparisons, sentence, write_rows
from tests.lit_instruct.stages.test_reward import train
from tests.lit_instruct.stages.trl_side import train_by_trl

EPOCH = {"max_epochs": 1, "max_steps": -1}
HOWEVER = {
    "shared": {"shared_prompt": "on"},
    "by the rule": {"shared_prompt": "auto"},
    "shared, in small groups": {"shared_prompt": "on", "max_tokens": 100},
    "in small groups": {"shared_prompt": "off", "max_tokens": 100},
    "one row at a time": {"shared_prompt": "on", "max_tokens": 1},
}


def trained(folder: Path, model: Path, path: str, **module: Any) -> tuple[list[dict[str, Tensor]], list[float], Any]:
    """Gradients, losses and the stage after two steps of 8 prompts."""
    stage, watch, _ = train(folder, model, {"path": path, "batch_size": 8}, module, **EPOCH)
    return watch.gradients, watch.losses, stage


@pytest.mark.parametrize("lora", [LoraOptions(top_layers=2), None], ids=["LoRA", "all weights"])
@pytest.mark.parametrize("however", HOWEVER)
def test_every_way_gives_the_same_gradients(tmp_path: Path, tiny_model: Path, lora: Any, however: str) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl", comparisons(13)))
    separate, losses, _ = trained(tmp_path, tiny_model, path, lora=lora, shared_prompt="off")
    found, others, stage = trained(tmp_path, tiny_model, path, lora=lora, **HOWEVER[however])
    assert stage.reward_forward.packing.sharing == HOWEVER[however]["shared_prompt"]
    assert losses == pytest.approx(others, abs=1e-5)
    assert len(found) == len(separate) == 2
    for own, their in zip(found, separate, strict=True):
        assert_equal(own, their, 1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_groups_are_accumulated_like_batches(tmp_path: Path, tiny_model: Path, checkpointing: bool) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl", comparisons(16)))
    module = {"memory": MemoryOptions(gradient_checkpointing=checkpointing), "shared_prompt": "on"}
    whole, _, one = trained(tmp_path, tiny_model, path, **module)
    data = {"path": path, "batch_size": 4}
    clipped = {"accumulate_grad_batches": 2, **EPOCH}
    other, parts, _ = train(tmp_path, tiny_model, data, {**module, "max_tokens": 60}, **clipped)
    assert len(parts.gradients) == 2
    for own, their in zip(parts.gradients, whole, strict=True):
        assert_equal(own, their, 1e-5)
    assert_equal(dict(one.network.state_dict()), dict(other.network.state_dict()), 1e-4)


def test_backward_stops_at_the_first_adapter_with_gradient_checkpointing(tmp_path: Path, tiny_model: Path) -> None:
    path = str(write_rows(tmp_path / "rows.jsonl", comparisons(8)))
    module = {"memory": MemoryOptions(gradient_checkpointing=True), "lora": LoraOptions(top_layers=1)}
    _, _, stage = trained(tmp_path, tiny_model, path, **module)
    passed = set()
    for number, layer in enumerate(stage.network.get_base_model().model.layers):
        layer.register_forward_hook(lambda _, __, output, at=number: passed.add((at, output.requires_grad)))
    stage.network.train()
    (batch,) = [stage.trainer.datamodule.collate(stage.trainer.datamodule.train_dataset.select(range(3)).to_list())]
    stage.reward_forward.rewards(batch)
    assert passed == {(0, False), (1, False), (2, False), (3, True)}


@pytest.mark.parametrize("sharing", ["on", "off"])
def test_margins_of_pairs_equal_trls(tmp_path: Path, tiny_model: Path, sharing: str) -> None:
    draw = random.Random(0)
    rows = [
        {
            "prompt": sentence(draw),
            "chosen": f" {sentence(draw, 1, 5)} {i}",
            "rejected": f" {sentence(draw, 1, 5)} {i} bad",
            "margin": draw.random(),
        }
        for i in range(12)
    ]
    module = {"lora": None, "prompt": PromptOptions("raw"), "shared_prompt": sharing}
    data = {"path": str(write_rows(tmp_path / "rows.jsonl", rows))}
    stage, watch, network = train(tmp_path, tiny_model, data, module, max_steps=3)
    order = [row for batch in stage.trainer.datamodule.train_sampler.batches(0) for row in batch]
    pairs = [rows[i] for i in order]
    _, steps = train_by_trl(RewardTrainer, RewardConfig, network, tmp_path, tiny_model, pairs)
    for own, their in zip(watch.gradients, steps, strict=True):
        assert_equal(own, their, 1e-5)
    plain, _ = train_by_trl(
        RewardTrainer, RewardConfig, network, tmp_path, tiny_model, [{**pair, "margin": 0.0} for pair in pairs]
    )
    assert any(not torch.equal(one, other) for one, other in zip(*_parameters(stage.network, plain.model), strict=True))


def _parameters(*models: torch.nn.Module) -> list[list[Tensor]]:
    return [list(model.state_dict().values()) for model in models]


def test_a_limit_that_allows_nothing() -> None:
    with pytest.raises(UserError, match=r"^--model.max_tokens=0: must be at least 1"):
        RewardModule("x", max_tokens=0)
