"""What the SFT benchmark trains on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """How the rows become batches.

    Args:
        packing: fills sequences of `max_length` tokens with several rows.
        padding_free: concatenates the rows of a batch instead of padding them.
        batch_size: rows of a step, packed ones where there is packing.
        steps: optimizer steps, the first ones to warm up included.
        max_length: tokens of a packed sequence, and most tokens of a row.
    """

    packing: bool
    padding_free: bool
    batch_size: int
    steps: int
    max_length: int = 256


WARM_UP = 1
"""Steps that do not count."""
STEPS = 10
"""Steps that do."""
VARIANTS = {
    "padded": Variant(packing=False, padding_free=False, batch_size=2, steps=WARM_UP + STEPS),
    "packed": Variant(packing=True, padding_free=False, batch_size=1, steps=WARM_UP + STEPS),
    "padding_free": Variant(packing=False, padding_free=True, batch_size=2, steps=WARM_UP + STEPS),
}
