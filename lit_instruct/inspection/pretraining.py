"""What is in a pretraining text: documents, tokens, blocks."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

from data_modules.reading.bad_rows import BadRows
from data_modules.reading.texts import stream_documents
from lit_instruct.errors import DataError
from lit_instruct.inspection.options import InspectOptions
from lit_instruct.inspection.statistics import describe_lengths
from lit_instruct.prompting import Prompter

SHOWN_CHARACTERS = 400


def inspect_text(options: InspectOptions, prompter: Prompter, bad_rows: BadRows | None) -> dict[str, Any]:
    """Returns the figures of a pretraining text.

    Args:
        options: as given.
        prompter: of the model.
        bad_rows: collects bad rows; None makes them an error.
    """
    lengths: Counter[int] = Counter()
    examples = []
    for number, document in enumerate(islice(stream_documents(options.path, bad_rows, options.seed), options.limit)):
        tokens = 0
        for piece in document:
            if tokens == 0 and number < options.examples:
                text = piece[:SHOWN_CHARACTERS] + ("…" if len(piece) > SHOWN_CHARACTERS else "")
                where = f"document {number + 1}"
                examples.append({"where": where, "title": "text", "pieces": [{"text": text, "trained": True}]})
            tokens += sum(map(len, prompter.texts_ids([piece], split_special_tokens=True)))
        lengths[tokens] += 1
    documents = sum(lengths.values())
    if not documents:
        raise DataError(f"{options.path}: there is no text in it; give another file")
    total = sum(length * count for length, count in lengths.items()) + documents - 1
    return {
        "formats": {options.path: ["text"]},
        "rows": documents,
        "tokens": {"document": describe_lengths(lengths)},
        "total_tokens": total,
        "blocks": {str(block): total // block for block in (128, 512, 1024)},
        "examples": examples,
    }
