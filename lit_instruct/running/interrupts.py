"""Ctrl-C: the first one stops a command in order, a second one ends the process at once, wherever it is."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from lit_instruct.errors import Interrupted

EXIT_CODE = 130
"""As shells report Ctrl-C."""
SHOW_CURSOR = b"\x1b[?25h"
"""Undoes what a progress bar has hidden."""
_state: dict[str, Any] = {"watching": False, "end_others": None, "kept_open": None}


def watch() -> None:
    """Lets a second Ctrl-C end this process with exit code 130 from now on.

    A thread sees to it: Python calls a signal's handler only when the main thread returns from C code, and a process
    that waits for another one may never do so. It is for the main thread of a process that runs one command.
    """
    if _state["watching"]:
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    _state.update(watching=True, kept_open=writing)
    threading.Thread(target=_count, args=[reading], name="Ctrl-C", daemon=True).start()


def _count(reading: socket.socket) -> None:
    pressed = False
    while True:
        for number in reading.recv(64):
            if pressed and number == signal.SIGINT:
                _end()
            pressed |= number in (signal.SIGINT, signal.SIGTERM)


def end_at_once() -> NoReturn:
    """Ends the process at a second Ctrl-C if `watch` was called; else raises KeyboardInterrupt."""
    if not _state["watching"]:
        raise KeyboardInterrupt
    _end()


def _end() -> NoReturn:
    """Ends this process and those that it started.

    Nothing is cleaned up, as after a kill: what is written atomically is whole, and the next run removes the rest.
    """
    with contextlib.suppress(Exception):
        for child in multiprocessing.active_children():
            child.kill()
        if _state["end_others"] is not None:
            _state["end_others"]()
        if sys.__stderr__ is not None and sys.__stderr__.isatty():
            os.write(sys.__stderr__.fileno(), SHOW_CURSOR)
    os._exit(EXIT_CODE)


def interrupted() -> int:
    """Returns the exit code of a command that Ctrl-C has stopped; the process may take a while to end."""
    if _state["watching"]:
        signal.signal(signal.SIGINT, lambda *_: None)  # `watch` sees a second one; it is no error of what ends now
        exec("pass")  # Python forgets an interrupt that passed through other code, and does not end itself by SIGINT
    return EXIT_CODE


@contextlib.contextmanager
def without_lightning(end_others: Callable[[], None]) -> Iterator[None]:
    """Lets a first Ctrl-C leave Lightning's Trainer like any exception; then it is a KeyboardInterrupt again.

    By itself Lightning ignores further Ctrl-C, even if it hangs as it ends, and exits with code 1.

    Args:
        end_others: kills the processes that the Trainer has launched; called at a second Ctrl-C.
    """
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    _state["end_others"] = end_others
    try:
        yield
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        _state["end_others"] = None
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(*_: Any) -> NoReturn:
    raise Interrupted


def _forget() -> None:
    """Leaves the signals of a forked process, such as a loader's worker, out of the count."""
    if _state["watching"]:
        _state["watching"] = False
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
