"""Which models our own decode step fits, and that all others are decoded by transformers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lit_instruct.batches import left_pad
from lit_instruct.errors import UserError
from lit_instruct.fast.llama_decode import LlamaDecoding
from lit_instruct.rollouts import decode
from lit_instruct.rollouts.decode import ModelDecoding, decoding, fits_llama_decoding
from lit_instruct.rollouts.generate import SamplingOptions, generate
from lit_instruct.rollouts.stopping import StopRule

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, heads of another size": ("llama", {"head_dim": 16}),
    "llama, as many keys as queries": ("llama", {"num_key_value_heads": 4}),
    "llama, other rotation": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "gemma": ("gemma", {"head_dim": 8}),
}
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "mistral, with a window": ("mistral", {"sliding_window": 4}, "use full attention"),
    "gpt2": ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2}, "Llama's layers"),
    "gemma2": ("gemma2", {"head_dim": 8}, "Llama's layers"),
    "olmo2": ("olmo2", {}, "Llama's layers"),
    "granite, which scales everything": (
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
        "does not compute what",
    ),
    "smollm3, not all of whose layers rotate": (
        "smollm3",
        {"use_sliding_window": False},
        "does not compute what",
    ),
}


def _model(kind: str, changes: dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**(SIZES | changes))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.3)
            elif "bias" in name or "norm" in name:
                weight.add_(0.2 * torch.randn_like(weight))
    return model.to(dtype)


def _tokens(model: nn.Module) -> list[list[int]]:
    ids, mask = left_pad([[5, 6, 7, 8, 9], [10, 11], [12]], 0)
    rule, keys = StopRule([], [], str), [(row,) for row in range(3)]
    return generate(model, ids, mask, SamplingOptions(max_new_tokens=8), rule, keys, 0).ids.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OWN)
def test_these_are_decoded_by_our_own_step(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = _model(*OWN[name], dtype)
    with caplog.at_level(logging.WARNING):
        assert isinstance(decoding(model, 8), LlamaDecoding)
    assert not caplog.records
    if dtype == torch.float32:
        own = _tokens(model)
        monkeypatch.setattr(decode, "fits_llama_decoding", lambda model: False)
        assert _tokens(model) == own


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OTHERS)
def test_these_are_decoded_by_transformers(name: str, dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    kind, changes, reason = OTHERS[name]
    model = _model(kind, changes, dtype)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert isinstance(decoding(model, 8), ModelDecoding)
    [record] = caplog.records  # said once
    assert reason in record.getMessage()


@pytest.mark.parametrize("name", OTHERS)
def test_greedy_by_transformers_is_what_generate_says(name: str) -> None:
    model = _model(*OTHERS[name][:2])
    ids, mask = left_pad([[5, 6, 7, 8, 9], [10, 11], [12]], 0)
    expected = model.generate(
        ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=8, pad_token_id=0, eos_token_id=None
    )
    options = SamplingOptions(max_new_tokens=8, top_k=1)
    sampled = generate(model, ids, mask, options, StopRule([], [], str), [(0,), (1,), (2,)], 0)
    assert sampled.ids.tolist() == expected[:, ids.shape[1] :].tolist()


def test_a_step_that_fails_is_not_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(self: LlamaDecoding, tokens: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(LlamaDecoding, "step", refuse)
    assert not fits_llama_decoding(_model("llama", {}))
    assert "shapes do not match" in caplog.text


def test_the_probe_sees_small_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong step is refused even where it is nearly right."""
    step = LlamaDecoding.step

    def shifted(self: LlamaDecoding, tokens: torch.Tensor) -> torch.Tensor:
        self.positions = self.positions + 1  # as if one more token had been read
        return step(self, tokens)

    assert fits_llama_decoding(_model("llama", {}))
    monkeypatch.setattr(LlamaDecoding, "step", shifted)
    assert not fits_llama_decoding(_model("llama", {}))


def test_a_model_that_does_not_read_its_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2})
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *ids, past_key_values=None, **more: forward(*ids, **more))
    with pytest.raises(UserError, match="GPT2LMHeadModel cannot be sampled from here .token by token its logits are"):
        decoding(model, 8)


def test_a_model_with_a_cache_of_its_own_is_refused() -> None:
    layers = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
    model = _model("minimax", {"head_dim": 8, "num_local_experts": 4, "layer_types": layers, "block_size": 32})
    with pytest.raises(UserError, match="MiniMaxForCausalLM cannot be sampled from here .MiniMax uses cache of"):
        decoding(model, 8)
