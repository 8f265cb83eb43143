"""Options of `lit-instruct data inspect`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from data_modules.hygiene.steps import HygieneOptions
from data_modules.reading.bad_rows import OnBadRow
from lit_instruct.errors import UserError

Kind = Literal["auto", "demonstrations", "comparisons", "prompts", "pretraining"]


@dataclass
class InspectOptions:
    """Shows what is in a dataset: lit-instruct data inspect PATH [options].

    Args:
        path: file (.jsonl, .json, .csv, .tsv, .parquet, .txt; .gz too), folder, hub id with its split
            (org/name:train), or several with weights (a.jsonl@3,b.jsonl@1); --path may be left out if it comes first.
        kind: what the rows are for; auto detects it from the first rows.
        format: layout of the rows, as --data.format in training; auto detects it from the first rows.
        fields: field of the layout -> its name in the file, as --data.fields in training.
        base: model (name, hub id or folder) whose tokenizer and prompt format are used.
        max_length: limit in tokens, as --data.max_length (for prompts --data.max_prompt_length) in training.
        loss_on: which turns of a demonstration the examples mark as trained.
        hygiene: steps of prompt hygiene to try; unlike in training, prompts are also compared by their first 64 tokens.
        on_bad_row: stop at a bad row, or count it and continue.
        bad_rows: .jsonl file to write bad rows to, with the reason.
        limit: read only this many rows.
        examples: number of rows to show as the model sees them.
        json: file to write all figures to; --json without a file prints them to standard output instead of the tables.
        seed: for mixing sources with weights and for resampling use cases.
    """

    path: str
    kind: Kind = "auto"
    format: str = "auto"
    fields: dict[str, str] | None = None
    base: str = "smollm2-135m-instruct"
    max_length: int = 512
    loss_on: Literal["responses", "last_response"] = "responses"
    hygiene: HygieneOptions = field(default_factory=lambda: HygieneOptions(unique_prefix=64))
    on_bad_row: OnBadRow = "skip"
    bad_rows: str | None = None
    limit: int | None = None
    examples: int = 2
    json: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the numbers."""
        for name, least in (("max_length", 1), ("limit", 1), ("examples", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name}={value}: must be at least {least}")
