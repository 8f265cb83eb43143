"""SFT against TRL's own SFTTrainer, and its loss under packing, accumulation and noise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from data_modules import PromptResponseDataModule
from lit_instruct.errors import UserError
from lit_instruct.models.activations import MemoryOptions
from lit_instruct.models.lora import LoraOptions
from lit_instruct.stages.options import PromptOptions
from lit_instruct.stages.sft import SFTModule
from lit_instruct.trl_bridge import SFTLossOptions, sft_loss
from tests.lit_instruct.stages.helpers import (
    Watch,
    assert_equal,
    demonstrations,
    plain_trainer,
    sentence,
    write_rows,
)
from tests.lit_instruct.stages.trl_side import CONSTANT, train_by_trl

LORA = LoraOptions(top_layers=2)


def train(
    folder: Path, model: Path, data: dict[str, Any], module: dict[str, Any], **options: Any
) -> tuple[SFTModule, Watch]:
    """One short training by Lightning alone."""
    watch = Watch()
    given = {"lora": LORA, "optimizer": CONSTANT, "dtype": "float32"} | module
    stage = SFTModule(str(model), **given)
    rows = PromptResponseDataModule(**({"validation_share": 0.0, "batch_size": 4} | data))
    plain_trainer(folder, callbacks=[watch], **({"max_steps": 1} | options)).fit(stage, rows)
    return stage, watch


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return str(write_rows(tmp_path / "rows.jsonl", demonstrations(12)))


def test_old_gradients_do_not_lie_beside_a_forward_pass(
    tmp_path: Path, tiny_model: Path, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = []

    def loss(trl: Any, network: torch.nn.Module, *more: Any) -> torch.Tensor:
        beside.append(any(parameter.grad is not None for parameter in network.parameters()))
        return sft_loss(trl, network, *more)

    monkeypatch.setattr("lit_instruct.stages.sft.sft_loss", loss)
    train(tmp_path, tiny_model, {"path": rows}, {}, max_steps=2, accumulate_grad_batches=2)
    assert beside == [False, True, False]  # three batches, of which the second adds to the first


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"loss_type": "dft"}, {"loss_type": "dft"}),
        ({"label_smoothing": 0.1}, {"label_smoothing_factor": 0.1}),
        ({"padding_free": True}, {}),
    ],
    ids=["nll", "dft", "label smoothing", "padding free"],
)
def test_three_steps_equal_trl(tmp_path: Path, tiny_model: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    draw = random.Random(0)
    rows = [{"prompt": f"{i} {sentence(draw)}", "response": f" {sentence(draw, 1, 9)}"} for i in range(12)]
    data = {"path": str(write_rows(tmp_path / "rows.jsonl", rows))}
    module = {"lora": None, "prompt": PromptOptions("raw"), "trl": SFTLossOptions(**ours)}
    stage, watch = train(tmp_path, tiny_model, data, module, max_steps=3)
    order = [row for batch in stage.trainer.datamodule.train_sampler.batches(0) for row in batch]
    shuffled = [{"prompt": rows[i]["prompt"], "completion": rows[i]["response"]} for i in order]
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trainer, steps = train_by_trl(SFTTrainer, SFTConfig, network, tmp_path, tiny_model, shuffled, **theirs)
    for own, their in zip(watch.gradients, steps, strict=True):
        assert_equal(own, their, 2e-6)
    assert_equal(dict(stage.network.state_dict()), dict(trainer.model.state_dict()), 2e-5)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if losses and len(losses) == 3:
        assert watch.losses == pytest.approx(losses, abs=1e-4)


@pytest.mark.parametrize("trl", [{}, {"loss_type": "dft"}, {"label_smoothing": 0.1}], ids=str)
def test_accumulated_micro_batches_equal_one_batch(
    tmp_path: Path, tiny_model: Path, rows: str, trl: dict[str, Any]
) -> None:
    module = {"trl": SFTLossOptions(**trl)}
    one, whole = train(tmp_path, tiny_model, {"path": rows, "batch_size": 8}, module, max_epochs=1, max_steps=-1)
    options = {"max_epochs": 1, "max_steps": -1, "accumulate_grad_batches": 4}
    other, parts = train(tmp_path, tiny_model, {"path": rows, "batch_size": 2}, module, **options)
    assert len(whole.gradients) == len(parts.gradients) == 2  # the second step is half a window: 4 rows
    for own, their in zip(whole.gradients, parts.gradients, strict=True):
        assert_equal(own, their, 1e-6)
    assert_equal(dict(one.network.state_dict()), dict(other.network.state_dict()), 1e-5)


@pytest.mark.parametrize("loss_on", ["responses", "all"])
@pytest.mark.parametrize("trl", [{"packing": True}, {"padding_free": True}], ids=["packing", "padding free"])
def test_packed_tokens_count_as_padded_ones(
    tmp_path: Path, tiny_model: Path, rows: str, trl: dict[str, Any], loss_on: str
) -> None:
    data = {"path": rows, "batch_size": 12, "max_length": 128, "loss_on": loss_on}
    _, padded = train(tmp_path, tiny_model, data, {})
    _, packed = train(tmp_path, tiny_model, data, {"trl": SFTLossOptions(**trl)})
    assert packed.losses[0] == pytest.approx(padded.losses[0], rel=1e-5)
    assert_equal(padded.gradients[0], packed.gradients[0], 1e-6)


def test_packing_makes_fewer_longer_rows(tmp_path: Path, tiny_model: Path, rows: str) -> None:
    data = {"path": rows, "batch_size": 1, "max_length": 128}
    stage, _ = train(tmp_path, tiny_model, data, {"trl": SFTLossOptions(packing=True)})
    lengths = [len(row["input_ids"]) for row in stage.trainer.datamodule.train_dataset]
    assert len(lengths) < 12
    assert max(lengths) <= 128


def test_neftune_adds_noise_in_training_only(tmp_path: Path, tiny_model: Path, rows: str) -> None:
    module = {"trl": SFTLossOptions(neftune_noise_alpha=50.0)}
    stage, noisy = train(tmp_path, tiny_model, {"path": rows}, module)
    _, plain = train(tmp_path, tiny_model, {"path": rows}, {})
    assert noisy.losses[0] != pytest.approx(plain.losses[0], abs=1e-4)
    ids = torch.arange(3, 20)[None]
    stage.network.train()
    assert not torch.equal(stage.network(ids).logits, stage.network(ids).logits)
    stage.network.eval()
    assert torch.equal(stage.network(ids).logits, stage.network(ids).logits)


def test_gradient_checkpointing_does_not_change_gradients(tmp_path: Path, tiny_model: Path, rows: str) -> None:
    _, plain = train(tmp_path, tiny_model, {"path": rows}, {})
    _, saved = train(tmp_path, tiny_model, {"path": rows}, {"memory": MemoryOptions(gradient_checkpointing=True)})
    assert_equal(plain.gradients[0], saved.gradients[0], 1e-7)


def test_validation_counts_tokens_not_batches(tmp_path: Path, tiny_model: Path, rows: str) -> None:
    figures = []
    for size in (1, 5):
        stage = SFTModule(str(tiny_model), dtype="float32")
        data = PromptResponseDataModule(rows, validation_share=0.4, batch_size=size)
        figures.append(plain_trainer(tmp_path).validate(stage, data, verbose=False)[0])
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)
    assert 0 <= figures[0]["val/token_accuracy"] <= 1


def test_impossible_losses_are_refused() -> None:
    with pytest.raises(UserError, match="label_smoothing"):
        SFTLossOptions(loss_type="dft", label_smoothing=0.1)
    with pytest.raises(UserError, match="below 1"):
        SFTLossOptions(label_smoothing=1.0)
