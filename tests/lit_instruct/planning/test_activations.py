"""What forward passes keep, against the tensors that autograd saves, independent of any allocator."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lit_instruct.models.activations import checkpoint_layers
from lit_instruct.models.assemble import policy_network
from lit_instruct.models.loading import find_source
from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.activations import (
    attention_mask_bytes,
    cache_bytes,
    decode_logits_bytes,
    head_bytes,
    layer_bytes,
    pair_bytes,
    update_bytes,
)
from lit_instruct.planning.shapes import ModelShape, shape_of, shape_of_config

ROWS, LENGTH = 4, 64
CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    LlamaForCausalLM(CONFIG).save_pretrained(folder)
    return folder


def saved_bytes(network: torch.nn.Module, dtype: torch.dtype) -> int:
    """Bytes of the storages that a forward pass keeps for the backward pass, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors are kept, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 60
    with (
        torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        network.get_base_model().model(ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lora", [LoraOptions(r=4), LoraOptions(r=4, top_layers=3)], ids=["all layers", "three"])
def test_what_adapters_keep(folder: Path, dtype: torch.dtype, lora: LoraOptions) -> None:
    network = policy_network(find_source(str(folder)), lora, dtype)
    real, shape = saved_bytes(network, dtype), shape_of(str(folder))
    layers = lora.top_layers or 6
    one = layer_bytes(shape, dtype.itemsize, lora, "whole") * ROWS * LENGTH
    if dtype == torch.bfloat16:  # the way of short rows
        one += pair_bytes(shape, 2, ROWS, LENGTH)
    assert layers * one == pytest.approx(real, rel=0.1)


def test_what_checkpointed_layers_keep(folder: Path) -> None:
    network = policy_network(find_source(str(folder)), LoraOptions(r=4), torch.float32)
    checkpoint_layers(network)
    real = saved_bytes(network, torch.float32)
    assert pytest.approx(real, rel=0.35) == 6 * 4 * 64 * ROWS * LENGTH  # one hidden state a layer, and the final norm


SHAPE: ModelShape = shape_of_config(CONFIG, "small")


def test_an_update_with_checkpoints_keeps_inputs_and_one_layer() -> None:
    lora = LoraOptions(r=4)
    whole = layer_bytes(SHAPE, 4, lora)
    norm = 8 * 64
    assert update_bytes(SHAPE, 4, lora, 10, False, False) == 10 * (6 * whole + norm)
    assert update_bytes(SHAPE, 4, lora, 10, True, False) == 10 * (6 * 4 * 64 + whole + norm)
    assert update_bytes(SHAPE, 4, lora, 10, False, True) == 10 * (2 * whole + norm)
    lora.top_layers = 1
    assert update_bytes(SHAPE, 4, lora, 10, False, False) == 10 * (whole + norm)


def test_dropout_and_dora_keep_more() -> None:
    plain = layer_bytes(SHAPE, 4, LoraOptions(r=4))
    inputs = 4 * 64 + 64 + 64 + 192
    outputs = 4 * 64 + 192 + 192 + 64
    assert layer_bytes(SHAPE, 4, LoraOptions(r=4, dropout=0.1)) - plain == 5 * inputs
    assert layer_bytes(SHAPE, 4, LoraOptions(r=4, dora=True)) - plain == 4 * outputs


def test_the_cache_is_largest_while_it_grows() -> None:
    column = 2 * 6 * 4 * 16 * 2  # keys and values, layers, heads, their size, bytes
    assert cache_bytes(SHAPE, 2, rows=3, prompt=100, new=50) == 3 * column * 250  # the prompts' own cache beside it
    assert cache_bytes(SHAPE, 2, rows=3, prompt=100, new=300) == 3 * column * (356 + 400)
    assert cache_bytes(SHAPE, 2, rows=1, prompt=10, new=1000) == column * (532 + 1010)


def test_logits_and_masks() -> None:
    assert decode_logits_bytes(SHAPE, 2, rows=3) == 3 * 64 * 18
    assert head_bytes(SHAPE, 2, tokens=1000, device="cuda") == 128 * 64 * 14 + 1000 * 64 * 8
    assert head_bytes(SHAPE, 2, tokens=1000, device="cpu") == 64 * (128 * 2 + 16 * 12) + 1000 * 64 * 8
    assert attention_mask_bytes(2, 8, 2) == 2 * 64 * 3
