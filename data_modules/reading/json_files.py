"""JSON lines and JSON lists -> records, in bounded memory.

The standard library decodes; what is ours is the window that moves over a JSON list. A streaming parser would replace
it, but ijson 3.6 gives neither the line of an item nor that of an error, stops at NaN, infinity and integers over 64
bits, turns a lone surrogate into "?", and on deep nesting takes memory that grows with the square of the depth.
tests/data_modules/reading/test_json_files.py has a test for each.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from data_modules.reading.files import MAX_LINE, TOO_LONG, Found, decode, open_bytes, read_lines, read_piece
from lit_instruct.errors import DataError

CHUNK = 2**18
SPACE = re.compile(r"[ \t\r\n]*")


def read_json_lines(path: Path) -> Iterator[Found]:
    """Yields one record per line; empty lines are skipped."""
    for number, line in read_lines(path):
        if line is None or line.strip():
            yield Found(f"{path}:{number}", partial(_decode_line, line), line)


def read_json_list(path: Path) -> Iterator[Found]:
    """Yields the items of the one list in the file, decoded one by one, each with the line on which it begins.

    Raises:
        DataError: there is no list, or it is broken; nothing after the break can be read.
    """
    with open_bytes(path) as stream:
        text = _Window(path, stream)
        if text.next_character() == "":
            return
        if text.next_character() != "[":
            raise DataError(
                f"{path}:1: a .json file must hold a list of rows; put them in [...] or name the file .jsonl"
            )
        text.skip_character()
        while text.next_character() != "]":
            line = text.line
            item, raw = text.take_item()
            yield Found(f"{path}:{line}", partial(_same, item), raw)
            if text.next_character() == ",":
                text.skip_character()
                wanted = "an item" if text.next_character() == "]" else None
            else:
                wanted = "',' or ']'" if text.next_character() != "]" else None
            if wanted is not None:
                raise DataError(f"{path}:{text.line}: broken JSON (Expecting {wanted}); correct the line")
        text.skip_character()
        if text.next_character() != "":
            raise DataError(f"{path}:{text.line}: broken JSON (text after the list's end); correct the line")


def _same(item: Any) -> Any:
    return item


def _decode_line(line: bytes | None) -> Any:
    text = decode(line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"broken JSON ({error.msg}, column {error.colno}); correct the line") from None
    except RecursionError:
        raise DataError("JSON that is nested too deeply; correct the line") from None
    except ValueError:  # Python limits the digits of a number
        raise DataError("a number with thousands of digits; correct the line") from None


class _Window:
    """The part of a JSON text that is being decoded; it moves over the file and keeps track of the line."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self.line = 1
        self._text, self._place = "", 0
        self._at_end = False
        self._bytes = codecs.getincrementaldecoder("utf-8-sig")()
        self._decoder = json.JSONDecoder()

    def next_character(self) -> str:
        """Moves to the next character that is not white space and returns it ("" at the end)."""
        while True:
            self._move_to(SPACE.match(self._text, self._place).end())  # type: ignore[union-attr]
            if self._place < len(self._text) or self._at_end:
                return self._text[self._place : self._place + 1]
            self._read()

    def skip_character(self) -> None:
        """Moves past the character that `next_character` returned."""
        self._place += 1

    def take_item(self) -> tuple[Any, str]:
        """Decodes the next item and moves past it; returns the item and its text.

        Raises:
            DataError: it is broken or too long.
        """
        while True:
            try:
                item, end = self._decoder.raw_decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if self._at_end or len(self._text) - self._place > MAX_LINE:
                    long = f", or an item {TOO_LONG}" if not self._at_end else ""
                    raise self._broken(f"{error.msg}){long}", error.pos) from None
            except RecursionError:
                raise self._broken("nested too deeply)") from None
            except ValueError:  # Python limits the digits of a number
                raise self._broken("a number with thousands of digits)") from None
            else:
                if end < len(self._text) or self._at_end:  # a number may continue in the next chunk
                    if end - self._place > MAX_LINE:
                        raise DataError(f"{self.path}:{self.line}: an item {TOO_LONG}")
                    raw = self._text[self._place : end]
                    self._move_to(end)
                    return item, raw
            self._read()

    def _move_to(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _read(self) -> None:
        """Drops the decoded text and doubles the rest, so that a long item is decoded only a few times."""
        self._text, self._place = self._text[self._place :], 0
        piece = read_piece(self.path, self.stream, self.line, max(CHUNK, len(self._text)), to_line_end=False)
        self._at_end = not piece
        try:
            self._text += self._bytes.decode(piece, final=self._at_end)
        except UnicodeDecodeError as error:
            line = self.line + self._text.count("\n") + error.object.count(b"\n", 0, error.start)
            raise DataError(f"{self.path}:{line}: not UTF-8 text; convert the file to UTF-8") from None

    def _broken(self, why: str, place: int | None = None) -> DataError:
        line = self.line + self._text.count("\n", self._place, place or self._place)
        return DataError(f"{self.path}:{line}: broken JSON ({why}; correct the line")
