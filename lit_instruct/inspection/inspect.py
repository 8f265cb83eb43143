"""`lit-instruct data inspect PATH`: what is in a dataset, and what training would do with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, cast

from data_modules.formats import TEXT_FORMAT
from data_modules.hygiene.facts import PromptFacts
from data_modules.reading.bad_rows import BadRows
from data_modules.reading.folders import TEXT_SUFFIX, kind_of
from data_modules.reading.readers import notes_on_splits
from data_modules.reading.sources import parse_sources
from data_modules.rows import PromptRow, Row, check_format, detect_layouts, stream_rows
from lit_instruct.errors import DataError
from lit_instruct.files import json_text, write_text
from lit_instruct.handover import prompter_of
from lit_instruct.inspection.examples import rendered
from lit_instruct.inspection.hygiene_preview import preview
from lit_instruct.inspection.kinds import KINDS, find_kind
from lit_instruct.inspection.options import InspectOptions
from lit_instruct.inspection.pretraining import inspect_text
from lit_instruct.inspection.show import show
from lit_instruct.inspection.statistics import RowStatistics
from lit_instruct.models.loading import find_source
from lit_instruct.prompting import Prompter
from lit_instruct.terminal import printable

ROWS_TOGETHER = 256
STDOUT = "-"
"""File name that means standard output."""


def inspect(options: InspectOptions) -> dict[str, Any]:
    """Prints what is in a dataset and returns the same figures, JSON-able.

    With `options.json` the figures are also written to that file; with "-" only their JSON is printed.

    Raises:
        DataError: a file is damaged, a row is wrong (with on_bad_row=error), or no row is left.
        UserError: an option is wrong, or a file cannot be written.
    """
    with BadRows(options.bad_rows) as bad:
        kind = options.kind if options.kind != "auto" else find_kind(options.path, options.fields)
        prompter = prompter_of(find_source(options.base))
        if kind == "pretraining":
            report = inspect_text(options, prompter, bad if options.on_bad_row == "skip" else None)
        else:
            report = inspect_rows(options, KINDS[kind], prompter, bad)
        report = {"path": options.path, "kind": kind, **report, "bad_rows": _bad(bad)}
    if options.json == STDOUT:
        print(json_text(report), end="")
        return report
    if options.json is not None:
        write_text(Path(options.json), json_text(report), "--json")
    show(report)
    for note in notes_on_splits(options.path, True, "train"):
        print(printable(note))
    return report


def inspect_rows(options: InspectOptions, row_type: type[Row], prompter: Prompter, bad: BadRows) -> dict[str, Any]:
    """Returns the figures of rows other than pretraining text.

    Args:
        options: as given.
        row_type: what the rows are.
        prompter: of the model.
        bad: collects bad rows.
    """
    check_format(options.format, row_type, options.fields)
    statistics = RowStatistics(prompter, options.max_length, bad)
    facts = PromptFacts(options.hygiene, prompter) if row_type is PromptRow else None
    rows = _rows(options, row_type, bad)
    shown: list[Row] = []
    while batch := list(islice(rows, ROWS_TOGETHER)):
        within = statistics.add(batch)
        shown += within[: max(0, options.examples - len(shown))]
        if facts is not None:
            facts.add(cast(list[PromptRow], within))
    if statistics.rows == 0:
        raise DataError(f"{options.path}: no row is left; the first bad row: {bad.first}")
    every_turn = options.loss_on == "responses"
    report = {
        "formats": _formats(options, row_type),
        **statistics.summary(),
        "examples": [asdict(rendered(row, prompter, every_turn)) for row in shown],
    }
    if facts is not None:
        again = RowStatistics(prompter, options.max_length, BadRows())
        steps = preview(facts, _within(options, row_type, again), options.seed)
        report["hygiene"] = [asdict(step) for step in steps]
    return report


def _rows(options: InspectOptions, row_type: type[Row], bad: BadRows) -> Iterator[Row]:
    rows = stream_rows(
        options.path,
        row_type,
        layout=options.format,
        fields=options.fields,
        on_bad_row=options.on_bad_row,
        bad_rows=bad,
        seed=options.seed,
    )
    return islice(rows, options.limit)


def _within(options: InspectOptions, row_type: type[Row], statistics: RowStatistics) -> Iterator[Any]:
    """Yields the rows again, without those over the length limit."""
    rows = _rows(options, row_type, statistics.bad_rows)
    while batch := list(islice(rows, ROWS_TOGETHER)):
        yield from statistics.add(batch)


def _formats(options: InspectOptions, row_type: type[Row]) -> dict[str, list[str]]:
    """Source -> layouts of its first rows."""
    found = {}
    for source in parse_sources(options.path):
        text = options.format == TEXT_FORMAT or kind_of(Path(source.path)) == TEXT_SUFFIX
        layouts = [] if text else detect_layouts(source.path, row_type, options.fields)
        names = [TEXT_FORMAT] if text else [layout.name for layout in layouts]
        found[source.path] = names if options.format in ("auto", TEXT_FORMAT) else [options.format]
    return found


def _bad(bad: BadRows) -> dict[str, Any]:
    return {
        "count": bad.count,
        "first": None if bad.first is None else str(bad.first),
        "written_to": None if bad.path is None or not bad.count else str(bad.path),
    }
