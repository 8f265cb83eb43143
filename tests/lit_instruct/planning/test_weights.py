"""Bytes of weights and optimizer states, against those of the libraries."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from lit_instruct.models.optimizers import OptimizerName, make_optimizer
from lit_instruct.planning.shapes import shape_of
from lit_instruct.planning.weights import NF4_BYTES, base_bytes, optimizer_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_base(tiny_model: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    real = sum(parameter.nbytes for parameter in model.parameters())
    assert base_bytes(shape_of(str(tiny_model)), "none", dtype.itemsize) == real


def test_bytes_of_a_weight_in_four_bits() -> None:
    """Packed numbers, their scales and the scales of those, as bitsandbytes makes them of a large matrix."""
    packed, state = bnb.quantize_4bit(torch.randn(1024, 1024), quant_type="nf4", compress_statistics=True)
    real = packed.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    assert real / 1024**2 == pytest.approx(NF4_BYTES, rel=1e-3)


def test_a_quantised_base_keeps_embeddings_and_norms() -> None:
    shape = shape_of("llama-8b")
    others = 2 * (shape.parameters - shape.linear_parameters)
    assert base_bytes(shape, "4bit", 2) == others + int(shape.linear_parameters * NF4_BYTES)
    rows = 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)
    assert base_bytes(shape, "8bit", 2) == others + shape.linear_parameters + 4 * rows
    assert base_bytes(shape, "4bit", 2) - base_bytes(shape, "4bit", 2, with_head=False) == 2 * 128256 * 4096


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "lion_8bit"])
def test_bytes_of_optimizer_states(name: OptimizerName) -> None:
    """States that are tables of the 8-bit numbers are shared by all tensors, and left out; so is the step's number."""
    parameters = [nn.Parameter(torch.randn(512, 512)), nn.Parameter(torch.randn(100))]
    optimizer = make_optimizer(name, parameters, 1e-3, 0.95, 0.0)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    real = 0
    for parameter in parameters:
        states = optimizer.state[parameter]
        kept = [s for key, s in states.items() if isinstance(s, torch.Tensor) and s.numel() > 1 and "qmap" not in key]
        real += sum(state.nbytes for state in kept)
    assert optimizer_bytes(name, [512 * 512, 100]) == pytest.approx(real, rel=0.02)
