"""What the models of the sentiment finding are asked, and who judges their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """Held-out prompts with a judge, and texts of people."""

    folder: Path
    """Where answers are kept."""
    prompts: Path
    """File of prompts that no model has seen."""
    limit: int | None
    """Most prompts."""
    tokens: int
    """Most tokens of an answer."""
    sentences: list[dict[str, Any]]
    """Prompts and responses of people, for the perplexity."""
    judge: Callable[[Sequence[tuple[str, str]]], list[float]]
    """Probability that each (prompt, response) is positive."""
    auc: Callable[[], float]
    """Of the judge, on labels that it did not learn from."""
    second: str = "lit_instruct.evaluation.labelers.second_opinion"
    """Second labeler; with the hub the reward itself."""
