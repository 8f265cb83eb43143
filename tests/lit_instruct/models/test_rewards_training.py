"""Rewards with adapters, gradient checkpointing, quantised bases, bfloat16 and dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, LlamaConfig

from lit_instruct.models.quantised import keep_differentiable
from lit_instruct.models.rewards import RewardForward
from tests.lit_instruct.models.tiny_classifiers import (
    SHARING,
    SIZE,
    assert_same,
    classifier,
    gradients,
    lora,
    one_by_one,
    ranked_batch,
)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("layers", [None, [2]])
def test_lora_and_gradient_checkpointing(checkpointing: bool, layers: list[int] | None) -> None:
    network = lora(classifier(SHARING["llama"]), layers_to_transform=layers).train()
    if checkpointing:
        network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    forward = RewardForward(network, "on", longest=24)
    assert_same(network, forward, ranked_batch())
    assert_same(network, RewardForward(network, "on", 16, longest=24), ranked_batch())
    assert "base_model.model.score.modules_to_save.default.weight" in dict(network.named_parameters())


@pytest.mark.filterwarnings("error:.*autograd kernel was not registered")
@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_bases(bits: int, tmp_path: Any) -> None:
    classifier(LlamaConfig(**{**SIZE, "hidden_size": 64, "intermediate_size": 128})).save_pretrained(tmp_path)
    options = {"load_in_8bit": True, "llm_int8_threshold": 0.0} if bits == 8 else {"load_in_4bit": True}
    base = AutoModelForSequenceClassification.from_pretrained(
        tmp_path,
        quantization_config=BitsAndBytesConfig(**options, llm_int8_skip_modules=["score"]),
        dtype=torch.float32,
    )
    network = lora(base).train()
    keep_differentiable(network)
    forward = RewardForward(network, "on", longest=24)
    assert forward.packing.sharing == "on"
    assert_same(network, forward, ranked_batch(), tolerance=2e-2 if bits == 8 else 1e-4)


def test_bfloat16_is_within_its_rounding() -> None:
    network = classifier(SHARING["llama"]).to(torch.bfloat16)
    network.score.float()
    forward = RewardForward(network, "on", longest=24)
    batch = ranked_batch()
    with torch.no_grad():
        torch.testing.assert_close(forward.rewards(batch), one_by_one(network, batch), rtol=0.1, atol=0.1)


def test_dropout_is_drawn_again_alike_when_forwards_are_repeated() -> None:
    network = classifier(SHARING["llama"])
    network = lora(network, lora_dropout=0.3).train()
    batch = ranked_batch(prompts=1)
    forward = RewardForward(network, "off", 8)

    def value_and_gradient() -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(5)
        rewards = forward.rewards(batch)
        rewards.sum().backward()
        return rewards.detach(), gradients(network)

    rewards, found = value_and_gradient()
    head = network.get_base_model().score.modules_to_save["default"].weight
    with torch.no_grad():
        head += 1e-2 * found["base_model.model.score.modules_to_save.default.weight"]
    moved, _ = value_and_gradient()
    slope = (found["base_model.model.score.modules_to_save.default.weight"] ** 2).sum() * 1e-2
    assert float((moved - rewards).sum()) == pytest.approx(float(slope), rel=1e-3)
