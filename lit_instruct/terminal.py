"""Texts of models and data, made harmless for a terminal, and output that nobody reads any more."""

from __future__ import annotations

import json
import logging
import os
import re
import select
import sys

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of writing
    "\u2028\u2029\ud800-\udfff\U000e0000-\U000e007f]"  # line ends of other kinds, halves of characters, invisible tags
)
NO_READER = 141
"""Exit code when the reader of the output has gone, as shells report SIGPIPE."""


def printable(text: str) -> str:
    """Returns a text with escape sequences, direction marks and the like written out, such as `\\x1b`."""
    return _HARMFUL.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def printable_json(text: str) -> str:
    """Returns JSON with such characters as JSON escapes, so that it still reads as the same value."""
    return _HARMFUL.sub(lambda found: json.dumps(found[0])[1:-1], text)


class PrintableRecord(logging.LogRecord):
    """A log record whose message, which may quote data and file names, is harmless for a terminal."""

    def getMessage(self) -> str:  # noqa: N802 (logging's name)
        """Returns the message with its arguments."""
        return printable(super().getMessage())


def reader_has_gone() -> bool:
    """Returns whether standard output or error is a pipe without a reader; what is still to be written is dropped."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream.fileno())]
    for stream in gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(gone)


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
