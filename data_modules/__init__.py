"""Dataset rows -> batches: one LightningDataModule for each of the three datasets of the paper."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_modules.prompt_response import PromptResponseDataModule
    from data_modules.prompts import PromptDataModule
    from data_modules.ranked_comparison import RankedComparisonDataModule

__all__ = ["PromptDataModule", "PromptResponseDataModule", "RankedComparisonDataModule"]
_WHERE = {
    "PromptDataModule": "data_modules.prompts",
    "PromptResponseDataModule": "data_modules.prompt_response",
    "RankedComparisonDataModule": "data_modules.ranked_comparison",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: paths are checked before PyTorch is imported."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
