"""Plain text or rows {text} -> documents in chunks, in memory that does not grow with the text."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from data_modules.formats.messages import check_text
from data_modules.reading.bad_rows import BadRows, refuse
from data_modules.reading.files import Found, open_bytes, read_piece
from data_modules.reading.folders import TEXT_SUFFIX, kind_of
from data_modules.reading.readers import hub_id, local_files, read_source
from data_modules.reading.sources import mix, parse_sources
from lit_instruct.errors import DataError

PIECE = 2**20
"""Bytes of a plain text that are read at a time."""
LONGEST_WORD = 2 * PIECE
"""Characters without white space after which a plain text is cut inside a word."""
PLAIN = (TEXT_SUFFIX, ".md", "")
"""Suffixes of plain text files."""


def stream_documents(path: str | Path, bad_rows: BadRows | None = None, seed: int = 0) -> Iterator[Iterator[str]]:
    """Yields documents, each in chunks: a plain text is one document, elsewhere each row {text} is one.

    A document must be read to its end before the next one is requested. Plain text is cut before white space, where
    tokenizers split too.

    Args:
        path: a plain text, a file of rows, a folder of either, a hub id, or several of these with weights, which are
            then proportions of documents.
        bad_rows: collects rows without a usable text; None makes them an error. Empty texts are skipped.
        seed: determines how sources with weights are mixed.

    Raises:
        DataError: a file or a row is wrong.
    """
    sources = parse_sources(path)
    streams = [_documents_of(source.path, bad_rows) for source in sources]
    return mix(streams, [source.weight for source in sources], seed)


def _documents_of(path: str, bad_rows: BadRows | None) -> Iterator[Iterator[str]]:
    if hub_id(path) is not None:
        yield from _row_texts(read_source(path), bad_rows)
        return
    for file in local_files(path, plain_text=True):
        if kind_of(file) in PLAIN:
            yield _plain_text(file)
        else:
            yield from _row_texts(read_source(str(file)), bad_rows)


def _row_texts(found: Iterator[Found], bad_rows: BadRows | None) -> Iterator[Iterator[str]]:
    for one in found:
        try:
            text = _text_of(one)
        except DataError as error:
            refuse(one.where, error, one.raw, bad_rows)
        else:
            if text:
                yield iter([text])


def _text_of(found: Found) -> str:
    record = found.fields()
    if record.get("text") is None:
        raise DataError('field "text" is missing; a row of a pretraining text needs it')
    if isinstance(record["text"], str) and not record["text"].strip():
        return ""  # such as the empty lines of a text that was split into rows
    return check_text(record["text"], 'field "text"')


def _plain_text(path: Path) -> Iterator[str]:
    """Yields a file in chunks of about PIECE bytes."""
    decoder, line, rest = codecs.getincrementaldecoder("utf-8-sig")(), 1, ""
    with open_bytes(path) as stream:
        while True:
            piece = read_piece(path, stream, line, PIECE, to_line_end=False)
            try:
                text = rest + decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise DataError(f"{path}:{line}: not UTF-8 text; convert the file to UTF-8") from None
            line += piece.count(b"\n")
            cut = _before_white_space(text) if piece else len(text)
            if not cut and len(text) > LONGEST_WORD:
                cut = len(text)
            if cut:
                yield text[:cut]
            rest = text[cut:]
            if not piece:
                return


def _before_white_space(text: str) -> int:
    """Where the last white space between two words begins; 0 if there is none."""
    end = len(text.rstrip())
    start = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end)) + 1
    return len(text[:start].rstrip())
