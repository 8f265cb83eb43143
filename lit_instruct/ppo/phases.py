"""Which part of an iteration runs: reported by the parts, shown by whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Listener = Callable[[str, int, int], None]
"""(phase, done, total): such as ("sampling", 12, 32)."""


@dataclass
class Phases:
    """Passes on how far a phase of an iteration has come."""

    listeners: list[Listener] = field(default_factory=list)

    def __call__(self, phase: str, done: int, total: int) -> None:
        for listener in self.listeners:
            listener(phase, done, total)
