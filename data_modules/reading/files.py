"""Reads the bytes of a file, compressed or not, line by line in bounded memory."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from data_modules.formats.layout import Record
from data_modules.formats.messages import kind
from lit_instruct.errors import DataError

MAX_LINE = 8 * 2**20
"""Most bytes of one record: anything longer is a broken file rather than a row."""
TOO_LONG = f"longer than {MAX_LINE // 2**20} MiB, which is no row; is a line break or a quote missing? Split the file"
GZIP_MAGIC, PARQUET_MAGIC, LFS_POINTER = b"\x1f\x8b", b"PAR1", b"version https://git-lfs"


class Found(NamedTuple):
    """One record as found in a file, not yet decoded."""

    where: str
    """"file:line", or "file:row n"."""
    record: Callable[[], Any]
    """Decodes it; raises a DataError that does not name the place."""
    raw: Any
    """Its content, for the file of bad rows; None if there is nothing but the decoded record."""

    def fields(self) -> Record:
        """Decodes the record, which must be an object; raises a DataError that does not name the place."""
        record = self.record()
        if not isinstance(record, dict):
            raise DataError(f"expected a JSON object, found {kind(record)}; correct the line")
        return record


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading, decompressed if its name ends in .gz.

    Raises:
        DataError: it cannot be read, or its first bytes contradict its name.
    """
    try:
        with path.open("rb") as stream:
            _check_magic(path, stream.peek(len(LFS_POINTER)))
            if path.suffix.lower() != ".gz":
                yield stream
            else:
                with gzip.GzipFile(fileobj=stream) as unpacked:
                    yield cast(BinaryIO, unpacked)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions"
        ) from None


def read_piece(path: Path, stream: BinaryIO, line: int, size: int = MAX_LINE + 1, to_line_end: bool = True) -> bytes:
    """Reads at most `size` bytes, or the rest of the line if that is less; b"" at the end.

    Args:
        path: the file, for the message.
        stream: from `open_bytes`.
        line: the current line, for the message.
        size: most bytes to read.
        to_line_end: stop at the end of a line.

    Raises:
        DataError: the compressed file is damaged.
    """
    try:
        return stream.readline(size) if to_line_end else stream.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}:{line}: the compressed file is damaged or cut off ({error}); fetch it again") from None


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yields (number from 1, line without line end or BOM); None stands for a line over MAX_LINE.

    Only "\\n" ends a line: JSON strings may contain U+2028 and similar characters.

    Raises:
        DataError: the file cannot be read to its end.
    """
    number = 0
    with open_bytes(path) as stream:
        while line := read_piece(path, stream, number + 1):
            number += 1
            if len(line) > MAX_LINE:
                while line and not line.endswith(b"\n"):
                    line = read_piece(path, stream, number)
                yield number, None
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def decode(line: bytes | None) -> str:
    """Decodes a line of `read_lines`.

    Raises:
        DataError: it is too long, or not UTF-8.
    """
    if line is None:
        raise DataError(f"the line is {TOO_LONG}")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text; convert the file to UTF-8") from None


def _check_magic(path: Path, magic: bytes) -> None:
    if magic.startswith(LFS_POINTER):
        raise DataError(f"{path}: a Git-LFS pointer rather than the file; run `git lfs pull` where it was cloned")
    packed = magic.startswith(GZIP_MAGIC)
    if packed and path.suffix.lower() != ".gz":
        raise DataError(f"{path}:1: this is gzip, though its name does not end in .gz; rename it to {path.name}.gz")
    if path.suffix.lower() == ".gz" and magic and not packed:
        raise DataError(f"{path}:1: not gzip, though its name ends in .gz; rename it to {path.name[:-3]}")
    if magic.startswith(PARQUET_MAGIC) and path.suffix.lower() != ".parquet":
        raise DataError(f"{path}:1: this is a Parquet file; rename it to {path.stem}.parquet")
