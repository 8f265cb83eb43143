"""Packed weights: the same products, a row alone as in any batch, and which weights cannot be packed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from lit_instruct.fast import packed as packed_module
from lit_instruct.fast.packed import PackedLinear, can_pack, pack_layers, packed, packed_linear, unpack_layers

DTYPES = [torch.float32, torch.bfloat16]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def frozen_layer(dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(96, 160, bias=bias).requires_grad_(False)
    layer.weight.copy_(drawn(160, 96))
    return layer.to(dtype)


def copy_of(layer: nn.Linear) -> PackedLinear:
    return PackedLinear.of(packed(layer.weight), layer.bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_gives_the_products_of_the_plain_one(dtype: torch.dtype, bias: bool) -> None:
    layer, x = frozen_layer(dtype, bias), drawn(3, 5, 96).to(dtype)
    plain, weight = layer(x), layer.weight.clone()
    copy = copy_of(layer)
    pack_layers([layer])
    tolerance = {"atol": 1e-4, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.25, "rtol": 0.01}
    torch.testing.assert_close(layer(x), plain, **tolerance)
    assert torch.equal(copy(x), layer(x))
    assert torch.equal(layer.weight.to_dense(), weight)
    assert layer.weight.shape == weight.shape and layer.weight.dtype == dtype
    assert torch.equal(layer.state_dict()["weight"], weight) and list(layer.state_dict()) == list(copy.state_dict())
    unpack_layers(nn.Sequential(layer))
    assert type(layer) is nn.Linear and torch.equal(layer.weight, weight) and torch.equal(layer(x), plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_alone_gives_the_bits_that_it_gives_in_a_batch(dtype: torch.dtype) -> None:
    """From two rows on; one row alone may be a product of another kind, as it is with a plain weight in float32."""
    weight, x = packed(drawn(160, 96).to(dtype)), drawn(130, 96).to(dtype)
    whole = packed_linear(x, weight)
    for rows in (2, 3, 7, 16, 33, 64, 128):
        assert torch.equal(packed_linear(x[:rows], weight), whole[:rows]), rows
    torch.testing.assert_close(packed_linear(x[:1], weight), whole[:1])


def test_under_autocast_the_input_is_rounded_as_a_plain_layer_rounds_it() -> None:
    layer, x = frozen_layer(torch.bfloat16), drawn(4, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
        found = copy_of(layer)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.25, rtol=0.01)
    other = frozen_layer(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # another dtype than the weight's
        torch.testing.assert_close(copy_of(other)(x), other(x))


def test_gradients_pass_through_a_packed_layer() -> None:
    layer = frozen_layer(torch.float32)
    copy, grads = copy_of(layer), []
    for one in (layer, copy):
        x = drawn(4, 96).requires_grad_()
        one(x).square().sum().backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_what_cannot_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn(160, 96)
    assert can_pack(weight) and can_pack(nn.Parameter(weight, requires_grad=False))
    assert not can_pack(nn.Parameter(weight))  # trains
    assert not can_pack(weight.double()) and not can_pack(weight.to(torch.int8)) and not can_pack(weight[0])
    assert not can_pack(weight.to("meta"))
    assert not can_pack(packed(weight))
    assert not can_pack(torch.masked.masked_tensor(weight, weight > 0))  # a tensor of another type
    monkeypatch.setattr(packed_module.torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(weight)


def test_a_row_of_another_dtype_is_refused() -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        copy_of(frozen_layer(torch.float32))(drawn(2, 96).double())


def test_linear_is_what_a_packed_product_replaces() -> None:
    """The operators' arguments as this torch has them."""
    weight, bias, x = drawn(37, 16), drawn(37), drawn(2, 3, 16)
    torch.testing.assert_close(packed_linear(x, packed(weight), bias), linear(x, weight, bias))
    assert packed_linear(x[:0], packed(weight), bias).shape == (0, 3, 37)
