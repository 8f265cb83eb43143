"""Which part of an iteration runs: reported by the parts, shown by whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Listener = Callable[[str, int, int], None]
"""(phase, done, total): such as ("sampling", 12, 32)."""


@dataclass
class Phases:
    """Passes on how far a phase of an iteration has come; without a listener it does nothing."""

    listener: Listener | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        if self.listener is not None:
            self.listener(phase, done, total)
