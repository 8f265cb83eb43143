"""What every finding is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lit_instruct.models.embedded import NAME

Source = Literal["packages", "hub"]


@dataclass(frozen=True)
class Context:
    """Where a finding works, and how thoroughly."""

    runs: Path
    """Folder of all runs and data, such as runs/evidence."""
    seeds: Sequence[int] = (0, 1, 2)
    source: Source = "packages"
    """Where public data comes from."""
    quick: bool = False
    """Whether everything is as small as a test needs it."""
    base: str = NAME
    """The model that SFT starts from."""
