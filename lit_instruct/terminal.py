"""Texts of models and data, made harmless for a terminal."""

from __future__ import annotations

import json
import logging
import re

_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of writing
    "\u2028\u2029\ud800-\udfff\U000e0000-\U000e007f]"  # line ends of other kinds, halves of characters, invisible tags
)


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
