"""Limits of time and memory for the code in a model's chat template."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from lit_instruct.errors import RunawayTemplateError

SECONDS = 10.0
"""Most processor time of one rendering; usual templates take less than a millisecond."""
MEMORY = 2**29
"""Most bytes that one rendering may add to the process."""
CHARACTERS = 2**26
"""Longest text that a template may write."""
PAGES = Path("/proc/self/statm")
"""Its first number is the size of the process; other systems than Linux have no such file, and no limit of memory."""


class _TooLongError(BaseException):
    """Unlike an Exception, jinja lets it pass while it compiles."""


@contextlib.contextmanager
def limited(name: str) -> Iterator[None]:
    """Refuses a rendering that takes too long or needs too much memory.

    Jinja's sandbox keeps a template away from files and programs, but not from nested loops or "x" * 10**10. Outside of
    the main thread, only memory is limited: Python has no other means to interrupt a thread.

    Args:
        name: of the tokenizer, for the message.

    Raises:
        RunawayTemplateError: a limit was reached.
    """
    try:
        with _limited_time(), _limited_memory():
            yield
    except _TooLongError:
        raise runaway(name, f"takes more than {SECONDS:g} s to write a prompt") from None
    except MemoryError:
        raise runaway(name, f"needs more than {MEMORY // 2**20} MiB to write a prompt") from None


def runaway(name: str, what: str) -> RunawayTemplateError:
    """Returns the error for a template that reaches a limit."""
    return RunawayTemplateError(
        f"{name or 'tokenizer'}: the chat template {what}; use another model, or leave it out with template raw "
        "(--model.prompt.template=raw)"
    )


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getsignal(signal.SIGVTALRM) is not _stop:
        signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _stop(*_: Any) -> NoReturn:
    raise _TooLongError


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    try:
        size = int(PAGES.read_bytes().split()[0]) * resource.getpagesize()
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = [limit for limit in (size + MEMORY, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
