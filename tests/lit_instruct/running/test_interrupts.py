"""Ctrl-C pressed once and twice, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lit_instruct.errors import Interrupted
from lit_instruct.running.interrupts import without_lightning

BEFORE = """
import hashlib, os, signal, sys, time
from lit_instruct.running.interrupts import interrupted, watch

watch()

def in_c_code():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # takes minutes, and no signal's handler runs meanwhile
"""
IN_C_CODE = "in_c_code()\n"
BEGINS_TO_STOP = """
signal.signal(signal.SIGINT, lambda *_: None)  # as a training that ends after its step
in_c_code()
"""
ENDS_SLOWLY = """
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    code = interrupted()
    time.sleep(60)
"""
WITH_A_WORKER = """
signal.signal(signal.SIGINT, lambda *_: print("noticed", flush=True))
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print("ready", flush=True)
time.sleep(60)
"""


def presses(code: str, presses: int, group: bool = False, gap: float = 0.3) -> tuple[int | None, str]:
    """Runs code, presses Ctrl-C once it says that it is ready, and returns exit code (None if it goes on) and output.

    The processes that it forks get the signals too if `group`.
    """
    command = [sys.executable, "-c", BEFORE + code]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, start_new_session=True, **streams) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for _ in range(presses):
            time.sleep(gap)
            (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
        try:
            returned = process.wait(timeout=2 * gap if presses == 1 else 20)
        except subprocess.TimeoutExpired:
            returned = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return returned, process.stdout.read()


@pytest.mark.parametrize("code", [IN_C_CODE, BEGINS_TO_STOP, ENDS_SLOWLY])
def test_a_second_ctrl_c_ends_a_process_wherever_it_is(code: str) -> None:
    assert presses(code, 2) == (130, "")


def test_workers_that_get_the_same_ctrl_c_do_not_count() -> None:
    assert presses(WITH_A_WORKER, 1, group=True) == (None, "noticed\nnoticed\n")
    assert presses(WITH_A_WORKER, 2, group=True)[0] == 130


@pytest.fixture
def default_handler() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which pytest leaves in place."""
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, earlier)


@pytest.mark.usefixtures("default_handler")
def test_in_the_trainer_a_first_ctrl_c_is_no_keyboard_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), without_lightning(lambda: None):
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
        raise Interrupted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("default_handler")
def test_another_handler_stays_in_place() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    with without_lightning(lambda: None):
        os.kill(os.getpid(), signal.SIGINT)
    assert seen == [1]
