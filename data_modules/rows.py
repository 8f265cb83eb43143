"""One checked row type for each kind of dataset, streamed from files, folders and hub datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

from lightning.pytorch.utilities import rank_zero_info

from data_modules.formats import COMPARISON_LAYOUTS, DEMONSTRATION_LAYOUTS, PROMPT_LAYOUTS, TEXT_FORMAT
from data_modules.formats.advice import advice_on
from data_modules.formats.fields import FieldNames, check_fields, check_present, fields_of, renamed
from data_modules.formats.layout import Layout, MissingFieldError, Record, detect, find
from data_modules.formats.messages import as_messages, check_text, kind
from data_modules.formats.ranks import margin_of_each
from data_modules.reading.bad_rows import BadRows, OnBadRow, refuse
from data_modules.reading.readers import read_source
from data_modules.reading.records import decodable, grouped, items_of
from data_modules.reading.sources import mix, parse_sources
from lit_instruct.errors import DataError, UserError
from lit_instruct.prompting import Prompt

OnLong = Literal["error", "drop"]
"""What to do with a row over the length limit."""
SAMPLE = 64
"""Number of records from which the layout of a source is detected."""


@dataclass
class Row:
    """What every row has: a prompt, further fields of the file (`extra`) and where it was read.

    Not frozen, although rows never change: Lightning rebuilds the dataclasses in a batch when it moves it to a device.

    Raises:
        DataError: a field is wrong.
    """

    layouts: ClassVar[tuple[Layout, ...]]
    """Layouts that hold rows of this type."""
    text_field: ClassVar[str | None] = None
    """Field that holds a line of plain text; None if plain text is not a row."""

    prompt: Prompt
    """A text, or messages that end with the user's."""
    extra: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of the file that the row type does not define, such as the author of a demonstration."""
    where: str = field(default="", kw_only=True, compare=False, repr=False)
    """ "file:line", for error messages."""

    def __post_init__(self) -> None:
        if isinstance(self.prompt, str):
            check_text(self.prompt, 'field "prompt"')
            return
        if not isinstance(self.prompt, list) or not self.prompt:
            what = kind(self.prompt)
            raise DataError(f'field "prompt" must be a text or a list of messages, not {what}; correct the row')
        role = as_messages(self.prompt, "prompt")[-1]["role"]
        if role != "user":
            raise DataError(f"the prompt's last message is the {role}'s; it must be the user's")

    def columns(self) -> Record:
        """Returns every field but the prompt, those of the file that the layout did not use among them."""
        own = {name: getattr(self, name) for name in sorted(_field_names(cast(Any, type(self))) - {"prompt"})}
        return self.extra | {name: value for name, value in own.items() if value is not None}

    @classmethod
    def from_fields(cls, values: Record, where: str = "") -> Self:
        """Builds a row from the fields of a layout; fields that the type does not define become `extra`.

        Raises:
            DataError: a field is wrong.
        """
        known = _field_names(cast(Any, cls))
        extra = {name: value for name, value in values.items() if name not in known}
        return cls(**{name: value for name, value in values.items() if name in known}, extra=extra, where=where)


@dataclass
class Demonstration(Row):
    """A prompt and the response that a labeler wrote for it (section 3.2, SFT data)."""

    layouts = DEMONSTRATION_LAYOUTS
    response: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text(self.response, 'field "response"')


@dataclass
class RankedComparison(Row):
    """K responses to one prompt and their ranks: 1 is the best, equal ranks are ties (section 3.4)."""

    layouts = COMPARISON_LAYOUTS
    responses: list[str]
    ranks: list[int]
    margin: Any = field(default=None, kw_only=True)
    """One number per response: the rewards of two responses should differ by the difference of their numbers. A single
    number for a pair, as in TRL, and None are converted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.responses, list) or not isinstance(self.ranks, list):
            raise DataError('fields "responses" and "ranks" must be lists; correct the row')
        if len(self.responses) < 2:
            raise DataError(f"K = {len(self.responses)}, but a comparison needs at least 2 responses; remove the row")
        for number, response in enumerate(self.responses, start=1):
            check_text(response, f'response {number} of field "responses"')
        if len(self.ranks) != len(self.responses):
            raise DataError(f"{len(self.ranks)} ranks for {len(self.responses)} responses; give one rank each")
        if any(type(rank) is not int or not 1 <= rank < 2**31 for rank in self.ranks):
            raise DataError(f"ranks {self.ranks!r:.80} must be whole numbers from 1 (the best); correct the row")
        self._check_same_responses()
        self.margin = margin_of_each(self.margin, self.ranks)

    def _check_same_responses(self) -> None:
        first: dict[str, int] = {}
        for number, response in enumerate(self.responses):
            same = first.setdefault(response, number)
            if self.ranks[same] != self.ranks[number]:
                raise DataError(
                    f"responses {same + 1} and {number + 1} are identical, yet ranked {self.ranks[same]} and "
                    f"{self.ranks[number]}; remove one of them"
                )


@dataclass
class PromptRow(Row):
    """A prompt alone, as its user wrote it (section 3.2, PPO data)."""

    layouts = PROMPT_LAYOUTS
    text_field = "prompt"
    user: str | None = None
    use_case: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("user", self.user), ("use_case", self.use_case)):
            if value is not None:
                check_text(value, f'field "{name}"')


RowType = TypeVar("RowType", bound=Row)


def read_rows(path: str | Path, row_type: type[RowType], **options: Any) -> list[RowType]:
    """Returns all rows of `stream_rows`, which has the same arguments."""
    return list(stream_rows(path, row_type, **options))


def stream_rows(
    path: str | Path,
    row_type: type[RowType],
    *,
    layout: str = "auto",
    fields: FieldNames | None = None,
    split: str | None = "train",
    on_bad_row: OnBadRow = "error",
    bad_rows: BadRows | None = None,
    seed: int = 0,
) -> Iterator[RowType]:
    """Yields checked rows one at a time, in memory that does not grow with their number.

    Args:
        path: a file, a folder of files or a hub id with its split (`data_modules.reading.readers`), or several of
            them with weights (`data_modules.reading.sources`).
        row_type: Demonstration, RankedComparison or PromptRow.
        layout: name of one of `row_type.layouts`; "auto" detects it from the first rows of each source.
        fields: field of a layout -> its name in the file.
        split: of a folder with several splits, if `path` names none; None refuses to choose.
        on_bad_row: "error" stops at a bad row, "skip" leaves it out and counts it. A damaged file is an error in both
            cases.
        bad_rows: collects skipped rows, for the caller to report; None only logs their number.
        seed: determines how sources with weights are mixed.

    Raises:
        DataError: a row or a file is wrong, or no row is left; the message begins with "path:line".
        UserError: `path`, `layout`, `fields` or `on_bad_row` is invalid.
    """
    check_format(layout, row_type, fields)
    if on_bad_row not in ("error", "skip"):
        raise UserError(f"--data.on_bad_row: {on_bad_row} is not possible; it must be error or skip")
    bad = None if on_bad_row == "error" else bad_rows if bad_rows is not None else BadRows()
    sources = parse_sources(path)
    streams = [_rows_of(source.path, row_type, layout, fields, split, bad) for source in sources]
    yield from mix(streams, [source.weight for source in sources], seed)
    if bad is not None and bad_rows is None and bad.count:
        rank_zero_info(f"{path}: {bad.describe()}")


def check_format(layout: str, row_type: type[Row], names: FieldNames | None = None) -> None:
    """Raises UserError for a layout (--data.format) or field names (--data.fields) that such rows do not have."""
    known = ["auto", *(known.name for known in row_type.layouts), *([TEXT_FORMAT] if row_type.text_field else [])]
    if layout not in known:
        raise UserError(f"--data.format: {layout} is not possible here; choose one of {', '.join(known)}")
    check_fields(names, fields_of(row_type.layouts) | _field_names(cast(Any, row_type)))


def detect_layouts(path: str, row_type: type[Row], names: FieldNames | None = None) -> list[Layout]:
    """Returns the layouts of the first rows of one source, most frequent first; empty if none is known.

    Raises:
        DataError: the source cannot be read.
    """
    first = decodable(islice(read_source(path, row_type.text_field), SAMPLE))
    return detect((renamed(record, names) for record in first), row_type.layouts)


def _rows_of(
    path: str,
    row_type: type[RowType],
    layout: str,
    names: FieldNames | None,
    split: str | None,
    bad: BadRows | None,
) -> Iterator[RowType]:
    """Yields the rows of one source."""
    found = read_source(path, row_type.text_field, layout == TEXT_FORMAT, split)
    first = list(islice(found, SAMPLE))
    if not first:
        raise DataError(f"{path}:1: the file is empty; it needs at least one row")
    records = list(decodable(first))
    check_present(path, records, names)
    known: Sequence[Layout] = [one for one in row_type.layouts if one.name == layout]
    known = known or detect((renamed(one, names) for one in records), row_type.layouts) or row_type.layouts[:1]
    items = items_of(chain(first, found), names, bad)
    if known[0].group is not None:
        items = grouped(items, known[0].group)
    count = 0
    for item in items:
        rows: list[RowType] = []
        chosen = find(item.record, known) or known[0]
        try:
            rows = [row_type.from_fields(values, item.where) for values in chosen.rows(item.record)]
        except MissingFieldError as error:
            advice = advice_on(item.record, chosen, row_type.layouts, others=layout == "auto")
            refuse(item.where, DataError(f"{error}{advice}"), item.raw, bad)
        except DataError as error:
            refuse(item.where, error, item.raw, bad)
        count += len(rows)
        yield from rows
    if count == 0:
        first_bad = f"; the first bad row: {bad.first}" if bad is not None and bad.first is not None else ""
        raise DataError(f"{path}: no row is left in it for training{first_bad}")


@cache
def _field_names(row_type: Any) -> frozenset[str]:
    return frozenset(f.name for f in fields(row_type)) - {"extra", "where"}
