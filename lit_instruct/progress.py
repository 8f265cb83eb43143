"""How far long work has come: a bar in a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from logging import getLogger
from types import TracebackType
from typing import Any, TextIO, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lit_instruct.terminal import printable

Item = TypeVar("Item")
PROGRESS_FILE = "progress.json"
"""Name of the file in a stage's logs that says how far its training is (`running.progress_file`)."""
SHORT = 3.0
"""Seconds of work without a bar."""
REDRAW = 0.1
"""Least seconds between two states of a bar."""
LEAST, MOST = 20.0, 600.0
"""Least and most seconds between two lines; in between, lines come after 5 % of the time so far."""
LOGGERS = ("", "lightning.pytorch", "lightning.fabric")
"""Loggers whose messages are printed above a bar."""


class Progress:
    """Shows on standard error how far work has come.

    In a terminal it is a bar with a phase and figures, and log messages appear above it. Elsewhere it is a line after
    20 seconds and then more and more seldom, so that the log of a long training stays short.

    Args:
        name: of the work.
        total: number of steps; None if unknown.
        done: steps that were done before.
        keep: whether the bar stays on the screen.
        quiet: seconds before anything is shown.
        stream: where to write; None is standard error.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        done: int = 0,
        *,
        keep: bool = True,
        quiet: float = 0.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.total, self.first, self.done = printable(name), total, done, done
        self.keep, self.quiet = keep, quiet
        self.stream, self.clock = stream or sys.stderr, clock
        self.terminal = self.stream.isatty()
        self.began = self.shown = self.stepped = clock()
        self.figures: list[str] = []
        self.bar: tqdm[Any] | None = None
        self.logs = ExitStack()

    @property
    def seconds(self) -> float:
        """Time so far."""
        return self.clock() - self.began

    @property
    def seconds_per_step(self) -> float | None:
        """Mean over the complete steps; None before the first."""
        return (self.stepped - self.began) / (self.done - self.first) if self.done > self.first else None

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the mean so far; None if unknown, and at the end."""
        if self.total is None or self.seconds_per_step is None or self.done >= self.total:
            return None
        return max(0.0, (self.total - self.done) * self.seconds_per_step - (self.clock() - self.stepped))

    def update(self, done: int, phase: str = "", figures: Mapping[str, str] | None = None) -> None:
        """Shows the state, unless it was shown a moment ago.

        Args:
            done: steps so far, including those done before.
            phase: what is done now, such as "sampling 12/32".
            figures: name -> value.
        """
        if done != self.done:
            self.done, self.stepped = done, self.clock()
        self.figures = [printable(f"{name}={value}") for name, value in (figures or {}).items()]
        words = [*([phase] if phase else []), *self.figures]
        if self.terminal:
            if self.seconds >= self.quiet and (self.bar is None or self.clock() - self.shown >= REDRAW):
                self._draw(words)
        elif self.clock() - self.shown >= min(MOST, max(LEAST, self.seconds / 20)):
            self.shown = self.clock()
            count = f"{self.done}" if self.total is None else f"{self.done} of {self.total}"
            self.write(", ".join([f"{self.name}: {count}", *self._pace(), *words]))

    def write(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Ends the bar, so that what follows begins on a line of its own."""
        self.logs.close()
        if self.bar is not None:
            self._draw(self.figures)
            self.bar.close()
            self.bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self, words: list[str]) -> None:
        text = "".join(f", {word}" for word in [*self._pace(), *words]).replace("{", "{{").replace("}", "}}")
        shown = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}" + text + "]"
        self.shown = self.clock()
        if self.bar is not None:
            self.bar.n, self.bar.bar_format = self.done, shown
            self.bar.refresh()
            return
        self.bar = tqdm(
            desc=self.name,
            total=self.total,
            initial=self.done,
            leave=self.keep,
            file=self.stream,
            dynamic_ncols=True,
            bar_format=shown,
        )
        self.bar.start_t -= self.seconds
        self.logs.enter_context(logging_redirect_tqdm([getLogger(name) for name in LOGGERS]))

    def _pace(self) -> list[str]:
        """Seconds per step and time left, as far as they are known."""
        each, left = self.seconds_per_step, self.seconds_left
        pace = [f"{each:.2f} s/it"] if each is not None else []
        return pace + ([f"{in_words(left)} left"] if left is not None else [])


def track(items: Sequence[Item], name: str | None) -> Iterator[Item]:
    """Yields the items and shows how far they are if that takes more than a few seconds; without a name, never."""
    if name is None:
        yield from items
        return
    with Progress(name, len(items), keep=False, quiet=SHORT) as progress:
        for number, item in enumerate(items):
            progress.update(number)
            yield item


def in_words(seconds: float) -> str:
    """Returns a time for people: 40 s, 12 min, 3 h 5 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
