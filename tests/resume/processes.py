"""Runs in separate processes, on one rank or several, that can be killed by SIGKILL."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

from tests.lit_instruct.stages.helpers import PressCtrlC

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.resume.preloaded"])
ROOT = Path(__file__).parents[2]
LIMIT = 300.0
"""Seconds after which a process counts as stuck."""


class PressCtrlCOnOne(PressCtrlC):
    """Presses Ctrl-C, or sends another signal, on the last process only."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Counts down, then sends the signal."""
        if self.left == 0 and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), self.number)
        self.left -= 1


def start(words: list[str], log: Path, cache: Path, ranks: int = 1, **environment: str) -> list[Any]:
    """Starts the processes of a run, which save after every iteration.

    Args:
        words: the command line.
        log: file for their output.
        cache: folder for tokenized data.
        ranks: number of processes.
        environment: additional environment variables.
    """
    with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT)):  # for the imports of the server
        forkserver.ensure_running()
    shared = {"LIT_INSTRUCT_CACHE": str(cache), **environment}
    if ranks > 1:
        with socket.socket() as found:
            found.bind(("localhost", 0))
            port = str(found.getsockname()[1])
        shared |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
    processes = []
    for rank in range(ranks):
        own = shared | ({"LOCAL_RANK": str(rank)} if ranks > 1 else {})
        processes.append(SERVER.Process(target=_run, args=(words, log, own)))
        processes[-1].start()
    return processes


def wait(processes: list[Any]) -> list[int]:
    """Waits for processes and returns their exit codes; kills those that are stuck."""
    until = time.monotonic() + LIMIT
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    kill(processes)
    return [process.exitcode for process in processes]


def kill(processes: list[Any]) -> None:
    """Kills processes by SIGKILL, unless they have ended."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()


def _run(words: list[str], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from lit_instruct.cli import main
    from lit_instruct.running import last_checkpoint

    last_checkpoint.SECONDS = -1.0
    raise SystemExit(main(words))
