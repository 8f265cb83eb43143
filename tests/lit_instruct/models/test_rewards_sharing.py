"""Responses that share a row with their prompt, on every kind of model: the same rewards, or a fallback."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import MistralConfig

from lit_instruct.errors import UserError
from lit_instruct.fast import prefix_attention
from lit_instruct.models.rewards import RewardForward
from tests.lit_instruct.models.tiny_classifiers import (
    NOT_SHARING,
    SHARING,
    SIZE,
    assert_same,
    classifier,
    ranked_batch,
)


@pytest.fixture(params=["dense", "gathered"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of attending over suffixes on a CPU; sizes choose between them otherwise."""
    monkeypatch.setattr(prefix_attention, "GATHER_FACTOR", 1e9 if request.param == "dense" else 0)
    monkeypatch.setattr(prefix_attention, "GATHER_PAIRS", 0)
    return request.param


@pytest.mark.parametrize("kind", SHARING)
def test_shared_rows_equal_one_sequence_at_a_time(kind: str, attention: str) -> None:
    network = classifier(SHARING[kind])
    forward = RewardForward(network, "on", longest=24)
    assert forward.packing.sharing == "on"
    assert_same(network, forward, ranked_batch())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_shared_rows_with_eager_attention(kind: str) -> None:
    network = classifier(SHARING[kind], attn_implementation="eager")
    forward = RewardForward(network, "on", longest=24)
    assert_same(network, forward, ranked_batch())
    assert network.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", NOT_SHARING)
def test_models_on_which_sharing_would_be_wrong_fall_back(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    network = classifier(NOT_SHARING[kind])
    before = network.config._attn_implementation
    forward = RewardForward(network, "auto", longest=24)
    with caplog.at_level(logging.INFO):
        assert_same(network, forward, ranked_batch())
    assert forward.packing.sharing == "off"
    assert network.config._attn_implementation == before
    assert len([record for record in caplog.records if "cannot share" in record.getMessage()]) == 1
    with pytest.raises(UserError, match=r"^--model.shared_prompt=on: this model cannot share prompts"):
        RewardForward(network, "on", longest=24).rewards(ranked_batch())


def test_a_window_longer_than_all_sequences_does_no_harm() -> None:
    network = classifier(MistralConfig(num_key_value_heads=2, sliding_window=24, **SIZE))
    assert_same(network, RewardForward(network, "on", longest=22), ranked_batch())


def test_a_wrong_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    network = classifier(SHARING["llama"])
    monkeypatch.setattr(prefix_attention, "GATHER_FACTOR", 1e9)
    causal = torch.ones(1, 1, 99, 99, dtype=torch.bool).tril()
    monkeypatch.setattr(
        prefix_attention, "dense_mask", lambda segment: causal[..., : segment.shape[1], : segment.shape[1]]
    )
    with pytest.raises(UserError, match="hidden states differ"):
        RewardForward(network, "on", longest=24).rewards(ranked_batch())


class Broken(torch.autograd.Function):
    """An attention whose forward pass is right."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Returns it."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Has no such kernel."""
        raise RuntimeError("out of resource: shared memory")


class Halved(Broken):
    """One whose gradient is wrong."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Halves it."""
        return grads[0] / 2


@pytest.mark.parametrize(("kind", "reason"), [(Broken, "out of resource"), (Halved, "gradients differ")])
def test_an_attention_without_a_right_backward_pass_is_found(
    kind: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the first pass is that of a validation, which has no gradients."""
    network = classifier(SHARING["llama"])
    attend = prefix_attention.scaled_dot_product_attention
    monkeypatch.setattr(prefix_attention, "GATHER_FACTOR", 0)
    monkeypatch.setattr(prefix_attention, "GATHER_PAIRS", 0)
    monkeypatch.setattr(
        prefix_attention, "scaled_dot_product_attention", lambda *args, **kwargs: kind.apply(attend(*args, **kwargs))
    )
    with pytest.raises(UserError, match=reason), torch.inference_mode():
        RewardForward(network, "on", longest=24).rewards(ranked_batch())
    network.requires_grad_(False)
    assert RewardForward(network, "on", longest=24).packing.sharing == "on"
