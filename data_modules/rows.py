"""One checked row type for each dataset kind, and the reader whose errors name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from data_modules.formats import Record, comparison_fields, demonstration_fields, prompt_fields
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompt

ROLES = ("system", "user", "assistant")


@dataclass
class Row:
    """What every row has: a prompt, further fields of the file (`extra`) and where it was read.

    Not frozen, though nobody changes a row: Lightning rebuilds the dataclasses of a batch that it moves to a
    device.
    """

    prompt: Prompt
    """A text, or messages of which the last is the user's."""
    extra: dict[str, Any] = field(default_factory=dict, kw_only=True)
    """Fields of the file that the row type does not know, such as the author of a demonstration."""
    where: str = field(default="", kw_only=True, compare=False, repr=False)
    """"file:line", for error messages."""

    def __post_init__(self) -> None:
        _check_prompt(self.prompt)

    @staticmethod
    def normalise(record: Record) -> Record:
        """Rewrites any known layout as this type's fields."""
        raise NotImplementedError

    @classmethod
    def from_record(cls, record: Record, where: str = "") -> Self:
        """Builds a row from one JSON object in any layout of `data_modules.formats`.

        Raises:
            ValueError: a field is missing or wrong.
        """
        values = cls.normalise(record)
        known = {f.name for f in fields(cls)} - {"extra", "where"}
        extra = {name: value for name, value in values.items() if name not in known}
        return cls(**{name: value for name, value in values.items() if name in known}, extra=extra, where=where)


@dataclass
class Demonstration(Row):
    """A prompt and the response that a labeler wrote for it (section 3.2, SFT data)."""

    response: str

    normalise = staticmethod(demonstration_fields)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_text(self.response, 'field "response"')


@dataclass
class RankedComparison(Row):
    """K responses to one prompt and their ranks: 1 is the best, equal ranks are ties (section 3.4)."""

    responses: list[str]
    ranks: list[int]

    normalise = staticmethod(comparison_fields)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.responses, list) or not isinstance(self.ranks, list):
            raise ValueError('fields "responses" and "ranks" must be lists; correct the row')
        if len(self.responses) < 2:
            raise ValueError(f"K = {len(self.responses)}, but a comparison needs at least 2 responses; remove the row")
        for number, response in enumerate(self.responses, start=1):
            _check_text(response, f'response {number} of field "responses"')
        if len(self.ranks) != len(self.responses):
            raise ValueError(f"{len(self.ranks)} ranks for {len(self.responses)} responses; give one rank each")
        if any(isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in self.ranks):
            raise ValueError(f"ranks {self.ranks} must be whole numbers from 1 (the best); correct the row")


@dataclass
class PromptRow(Row):
    """A prompt alone, as its user wrote it (section 3.2, PPO data)."""

    user: str | None = None
    use_case: str | None = None

    normalise = staticmethod(prompt_fields)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("user", self.user), ("use_case", self.use_case)):
            if value is not None:
                _check_text(value, f'field "{name}"')


RowType = TypeVar("RowType", bound=Row)


def read_rows(path: str | Path, row_type: type[RowType]) -> list[RowType]:
    """Reads a .jsonl file (one object a line) or a .json file (a list of objects) and checks every row.

    Args:
        path: file in UTF-8.
        row_type: Demonstration, RankedComparison or PromptRow.

    Raises:
        UserError: the file or one of its rows is wrong; the message begins with "path:line".
    """
    path = Path(path)
    text = read_text(path)
    records = _json_list(text, path) if path.suffix == ".json" else _json_lines(text, path)
    rows = [_checked(record, row_type, f"{path}:{line}") for line, record in records]
    if not rows:
        raise UserError(f"{path}:1: the file is empty; it needs at least one row")
    return rows


def read_text(path: str | Path) -> str:
    """Reads a text file.

    Raises:
        UserError: the file does not exist or cannot be read as UTF-8.
    """
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; convert the file to UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def _checked(record: Any, row_type: type[RowType], where: str) -> RowType:
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, found {_kind(record)}; correct the line")
    try:
        return row_type.from_record(record, where)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _json_lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}:{line}: broken JSON ({error.msg}, column {error.colno}); correct the line"
                ) from None


def _json_list(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (line, item) of a JSON list; decoded one by one because json.loads forgets the lines."""
    if not text.strip():
        return
    try:
        json.loads(text)  # the whole file is sound: below, only the positions are looked for
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: broken JSON ({error.msg}); correct the line") from None
    decoder, position = json.JSONDecoder(), _skip_space(text, 0)
    if text[position] != "[":
        raise UserError(f"{path}:1: a .json file must hold a list of rows; put them in [...] or name the file .jsonl")
    position = _skip_space(text, position + 1)
    while text[position] != "]":
        line = text.count("\n", 0, position) + 1
        item, position = decoder.raw_decode(text, position)
        yield line, item
        position = _skip_space(text, position)
        if text[position] == ",":
            position = _skip_space(text, position + 1)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _check_prompt(prompt: Any) -> None:
    if isinstance(prompt, str):
        return _check_text(prompt, 'field "prompt"')
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(f'field "prompt" must be a text or a list of messages, not {_kind(prompt)}; correct the row')
    for number, message in enumerate(prompt, start=1):
        _check_message(message, f'message {number} of field "prompt"')
    if prompt[-1]["role"] != "user":
        raise ValueError(f"the prompt's last message is the {prompt[-1]['role']}'s; it must be the user's")


def _check_message(message: Any, name: str) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ValueError(f"{name} must have a role ({', '.join(ROLES)}) and a content; correct the row")
    # An empty system message says that there is to be none.
    if message["role"] != "system" or message.get("content") != "":
        _check_text(message.get("content"), f"the content of {name}")


def _check_text(value: Any, name: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {_kind(value)}; correct the row")
    if not value.strip():
        raise ValueError(f"{name} is empty; fill it in or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{name} holds half of a character (a lone surrogate such as \\ud83d); correct the row"
        ) from None


def _kind(value: Any) -> str:
    names = {
        type(None): "null",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
    }
    if value == []:
        return "an empty list"
    return names.get(type(value), "an object")
