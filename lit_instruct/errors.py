"""Exceptions for mistakes of the user, in options and files or in a dataset, and for Ctrl-C; causes of an exception."""

from __future__ import annotations

from collections.abc import Iterator


class UserError(Exception):
    """A mistake that the user can correct; the message names the file and line, option or stage, and what to do.

    The command line prints it as one line without a traceback and exits with code 2.
    """


class DataError(UserError):
    """Wrong content in a dataset; the message begins with "file:line" (Parquet and hub: "file:row n").

    The readers and layouts of data_modules raise nothing else, whatever a file holds.
    """


class RunawayTemplateError(UserError):
    """A chat template that takes too long or too much memory; no row of the data is to blame, so none is skipped."""


class Interrupted(BaseException):
    """Ctrl-C in a stage outside of its training steps; unlike KeyboardInterrupt, no library handles it by itself."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an exception and those that it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
