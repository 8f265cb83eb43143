"""Dataset rows -> batches: one LightningDataModule for each of the three datasets of the paper."""

from data_modules.prompt_response import PromptResponseDataModule
from data_modules.prompts import PromptDataModule
from data_modules.ranked_comparison import RankedComparisonDataModule

__all__ = ["PromptDataModule", "PromptResponseDataModule", "RankedComparisonDataModule"]
