"""The dtype of frozen weights: on a CPU the faster of float32 and bfloat16, measured once per processor and widths.

A processor's flags do not tell it: with AVX-512 instructions for bfloat16, one processor is faster than in float32 and
another slower.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, PreTrainedConfig

from lit_instruct.fast.host_memory import keep_few_products
from lit_instruct.machine import memory_bytes, processor
from lit_instruct.models.measured import conditions_here, measured_once, own_clock, taking_turns

DtypeName = Literal["auto", "float32", "bfloat16"]
KnownDtype = Literal["float32", "bfloat16"]
DTYPES: dict[KnownDtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ENOUGH_SPEED = 0.9
"""Speed of bfloat16, relative to float32, from which half the memory is worth more: noise moves ratios by less."""
MOST_MEMORY = 0.5
"""Share of the machine's memory that weights in float32 may take; a stage needs the rest for everything else."""
DECODED, FORWARD = 32, 1024
"""Rows of a product in a decoding step, and most rows in a forward pass."""
NARROWEST, WIDEST = (512, 1024), (1024, 2048)
"""Hidden and inner width: narrower models are measured as if they had the first, wider ones in a part of that size."""
LONGEST_PASS = 0.04
"""Seconds of a forward pass, which gets fewer rows on a slow processor."""

Widths = tuple[int, int]
Seconds = dict[KnownDtype, float]
Timer = Callable[[torch.dtype, int], float]
"""(dtype, rows) -> seconds of one pass."""


@dataclass(frozen=True)
class ChosenDtype:
    """The dtype of frozen weights, and how it was chosen."""

    name: KnownDtype
    why: str
    """Such as "1.8 times as fast as float32 on AMD EPYC"."""
    processor: str
    """Name of the CPU or GPU that it was chosen on."""
    flags: str = ""
    """Digest of the CPU's instruction sets."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype as torch has it."""
        return DTYPES[self.name]

    def line(self) -> str:
        """Returns the choice in one line, with the option that makes the other one."""
        other = next(name for name in DTYPES if name != self.name)
        return f"dtype {self.name}: {self.why}; --model.dtype={other} chooses the other"


def named(name: KnownDtype, why: str, device: torch.device) -> ChosenDtype:
    """Returns a dtype that was chosen for a reason other than its speed."""
    return ChosenDtype(name, why, *place_of(device))


def place_of(device: torch.device) -> tuple[str, str]:
    """Returns the name of a device's processor, and a digest of its instruction sets if it is a CPU."""
    if device.type == "cpu":
        return processor()
    return (torch.cuda.get_device_name(device) if device.type == "cuda" else device.type), ""


def choose_dtype(
    name: DtypeName,
    device: torch.device,
    config: PreTrainedConfig,
    seconds_of: Callable[[Widths], Seconds] | None = None,
) -> ChosenDtype:
    """Returns the dtype of frozen weights.

    On a CPU, "auto" compares two linear layers of the model's widths, for as many tokens in decoding steps of 32 rows
    as in forward passes of 1,024. bfloat16 takes half the memory: it is chosen from 0.9 times the speed of float32, or
    if weights in float32 would take more than half of the machine's memory.

    Args:
        name: as given by the user.
        device: where the weights will be.
        config: of the model.
        seconds_of: widths -> dtype -> seconds per token; None takes `seconds_here`.
    """
    if name != "auto":
        return named(name, "given as an option", device)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return named("bfloat16" if native else "float32", f"this GPU has {'' if native else 'no '}bfloat16", device)
    if device.type != "cpu":
        return named("float32", f"bfloat16 is not used on {device.type}", device)
    seconds = (seconds_of or seconds_here)(widths_of(config))
    return named(*_faster(seconds["float32"] / seconds["bfloat16"], config), device)


def _faster(speed: float, config: PreTrainedConfig) -> tuple[KnownDtype, str]:
    """The dtype for a speed of bfloat16 relative to float32, and why."""
    where = f"on {processor()[0]}"
    if speed > 1:
        return "bfloat16", f"{_times(speed)} as fast as float32 {where}"
    if speed >= ENOUGH_SPEED:
        return "bfloat16", f"half the memory at {speed:.2f} times the speed of float32 {where}"
    if not _fits(config):
        return "bfloat16", f"weights in float32 would take more than {MOST_MEMORY:.0%} of the memory"
    return "float32", f"{_times(1 / speed)} as fast as bfloat16 {where}"


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:.0f} times"


def widths_of(config: PreTrainedConfig) -> Widths:
    """Returns the hidden and the inner width of a model's linear layers, within NARROWEST and WIDEST."""
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    inner = next((value for name in ("intermediate_size", "ffn_dim", "n_inner") if (value := _size(text, name))), None)
    return (
        min(max(hidden, NARROWEST[0]), WIDEST[0]),
        min(max(inner or 4 * hidden, NARROWEST[1]), WIDEST[1]),
    )


def _size(config: PreTrainedConfig, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else None


def _fits(config: PreTrainedConfig) -> bool:
    """Tells whether weights in float32 leave enough memory; True if that is unknown."""
    memory = memory_bytes()
    if memory is None:
        return True
    try:
        with torch.device("meta"):  # shapes only
            parameters = AutoModelForCausalLM.from_config(config, trust_remote_code=False).parameters()
    except (ValueError, ImportError, OSError):
        return True
    size = sum(parameter.numel() for parameter in {id(one): one for one in parameters}.values())
    return torch.float32.itemsize * size <= MOST_MEMORY * memory


def measure(timer: Timer) -> Seconds:
    """Returns the seconds that a token takes in each dtype: in a decoding step plus in a forward pass.

    Both dtypes take turns, and the fastest pass counts, so that other work on the machine disturbs little.

    Args:
        timer: times one pass.
    """
    decoded = _fastest(timer, DECODED)
    rows = LONGEST_PASS / max(decoded.values()) * DECODED
    rows = 2 ** int(math.log2(min(max(rows, DECODED), FORWARD)))
    forward = _fastest(timer, rows)
    return {name: decoded[name] / DECODED + forward[name] / rows for name in DTYPES}


def _fastest(timer: Timer, rows: int) -> Seconds:
    ways: dict[KnownDtype, Callable[[], float]] = {
        name: functools.partial(timer, dtype, rows) for name, dtype in DTYPES.items()
    }
    return taking_turns(ways)


def product_timer(widths: Widths) -> Timer:
    """Returns a timer of two linear layers, hidden -> inner -> hidden; it draws no random numbers."""
    hidden, inner = widths
    keep_few_products(torch.device("cpu"))  # read at the first product of the process
    up = {dtype: _matrix(inner, hidden).to(dtype) for dtype in DTYPES.values()}
    down = {dtype: _matrix(hidden, inner).to(dtype) for dtype in DTYPES.values()}

    @torch.no_grad()
    def seconds(dtype: torch.dtype, rows: int) -> float:
        x = _matrix(rows, hidden).to(dtype)
        began = own_clock()
        linear(linear(x, up[dtype]), down[dtype])
        return max(own_clock() - began, 1e-9)

    return seconds


def _matrix(rows: int, columns: int) -> torch.Tensor:
    return torch.linspace(-1, 1, rows * columns, device="cpu").view(rows, columns)


def seconds_here(widths: Widths, timer_of: Callable[[Widths], Timer] = product_timer) -> Seconds:
    """Returns what `measure` finds on this machine, from the cache if it was measured before.

    Args:
        widths: hidden and inner width.
        timer_of: widths -> a function that times one pass.
    """
    conditions = {**conditions_here(processor()), "widths": widths}
    return measured_once("dtype", conditions, [*DTYPES], lambda: measure(timer_of(widths)))
