"""Which frozen weights of a model are packed (`fast.packed`): those whose products are measured to be faster here."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import PreTrainedModel

from lit_instruct.fast.host_memory import keep_few_products
from lit_instruct.fast.packed import PackedLinear, can_pack, pack_layers, packed, packed_linear
from lit_instruct.machine import processor
from lit_instruct.models.measured import conditions_here, measured_once, own_clock, taking_turns

SMALLEST = 2**16
"""Numbers in a matrix from which it is packed: the products of smaller ones take no time."""
GAIN = 1.05
"""Least ratio of the times: noise moves it by less."""
DECODED, FORWARD = 32, 128
"""Rows of the measured products: of a decoding step, and of a forward pass."""
MOST_OUT, MOST_IN = 16384, 2048
"""Larger matrices are measured in a part of this size."""
MATRICES = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
"""Names of the matrices in a decoder layer of Llama and its relatives."""

Way = Literal["plain", "packed"]
_outputs, _plain = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
_processor = functools.cache(processor)


def pays(weight: Tensor) -> bool:
    """Tells whether a weight is packed: it is large enough, nothing forbids it, and its products here get faster.

    A product under autocast to another dtype than the weight's is left as it is.
    """
    if weight.numel() < SMALLEST or not can_pack(weight):
        return False
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != weight.dtype:
        return False
    seconds = seconds_here((min(weight.shape[0], MOST_OUT), min(weight.shape[1], MOST_IN)), weight.dtype)
    return seconds["plain"] >= GAIN * seconds["packed"]


def seconds_here(shape: tuple[int, int], dtype: torch.dtype) -> dict[Way, float]:
    """Returns the seconds of a token's product with a plain and with a packed weight on this machine.

    As many tokens come from products of 32 rows as from products of 128. They are measured once per processor, number
    of threads, torch version, shape and dtype; the cache folder keeps them.

    Args:
        shape: (out, in) of the weight.
        dtype: of the weight.
    """
    conditions = {**conditions_here(_processor()), "shape": shape, "dtype": str(dtype)}
    ways: list[Way] = ["plain", "packed"]
    return measured_once("packed", conditions, ways, functools.partial(measure, shape, dtype))


@torch.no_grad()
def measure(shape: tuple[int, int], dtype: torch.dtype) -> dict[Way, float]:
    """Measures what `seconds_here` returns; it draws no random numbers."""
    keep_few_products(torch.device("cpu"))  # read at the first product of the process
    weight = torch.linspace(-1, 1, shape[0] * shape[1]).view(shape).to(dtype)
    blocks = packed(weight)

    def seconds(rows: int, way: Way) -> float:
        x = torch.linspace(-1, 1, rows * shape[1]).view(rows, -1).to(dtype)
        began = own_clock()
        linear(x, weight) if way == "plain" else packed_linear(x, blocks)
        return max(own_clock() - began, 1e-9)

    total: dict[Way, float] = {"plain": 0.0, "packed": 0.0}
    with torch.autocast("cpu", enabled=False):
        for rows in (DECODED, FORWARD):
            ways: dict[Way, Callable[[], float]] = {way: functools.partial(seconds, rows, way) for way in total}
            fastest = taking_turns(ways)
            total = {way: total[way] + fastest[way] / rows for way in total}
    return total


def pack_frozen(layers: Iterable[nn.Module]) -> None:
    """Packs the frozen matrices of Llama-like decoder layers in place, where that pays: the plain ones are dropped.

    Layers with adapters and matrices of other names, which a model might read itself, are left as they are.
    """
    for layer in layers:
        for part, names in MATRICES.items():
            found = [getattr(getattr(layer, part, None), name, None) for name in names]
            pack_layers([one for one in found if type(one) is nn.Linear and pays(one.weight)])


def packed_output(weight: Tensor) -> Tensor | None:
    """Returns a packed copy of a frozen output embedding, made once; None where that does not pay: (V, H)."""
    if weight in _plain or not pays(weight):
        return None
    version, copy = _outputs.get(weight, (None, None))
    if version != weight._version:  # new, or written to since
        copy = packed(weight)
        _outputs[weight] = weight._version, copy
    return copy


def packed_head(head: nn.Module) -> nn.Module:
    """Returns a frozen output embedding as a layer with a packed weight; `head` itself where that does not pay."""
    found = packed_output(head.weight) if type(head) is nn.Linear else None
    return head if found is None else PackedLinear.of(found, head.bias)


def keep_output_plain(network: nn.Module) -> None:
    """Makes no packed copy of the output embeddings of the transformers models in a network."""
    for model in network.modules():
        if isinstance(model, PreTrainedModel) and (head := model.get_output_embeddings()) is not None:
            _plain[head.weight] = True


@contextlib.contextmanager
def temporary_weight(layer: nn.Module, weight: Tensor) -> Iterator[None]:
    """Gives a frozen layer another weight, packed where that pays, and its own one back on exit, bit for bit."""
    own = layer.weight
    if type(layer) is nn.Linear and pays(weight):
        try:
            layer.weight = nn.Parameter(weight, requires_grad=False)
            pack_layers([layer])
            yield
        finally:
            layer.__class__ = nn.Linear
            layer.weight = own
        return
    kept = own.data
    try:
        own.data = weight
        yield
    finally:
        own.data = kept
