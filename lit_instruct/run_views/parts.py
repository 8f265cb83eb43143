"""The parts of the page of a run: for each stage its head, its curves and its samples, drawn again when they change."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lit_instruct.errors import UserError
from lit_instruct.evaluation.charts import thinned
from lit_instruct.evaluation.page import card, number, render
from lit_instruct.evaluation.training_charts import KINDS, stage_charts
from lit_instruct.run_views.shown import DIAGNOSTICS, Figure, digits_of, figures_of, samples_of, warnings_of
from lit_instruct.run_views.stage_log import StageLog, stages_in
from lit_instruct.run_views.state import state_of

FOLDER = Path(__file__).parent
POINTS = 300
"""Most points of a curve in the page."""
SHARE = 5
"""A look at the files is followed by a pause of so many times its length: the training needs the processor."""
MOODS = {"failed": "bad", "silent": "bad", "finished": "good"}


class Part(NamedTuple):
    """A piece of the page."""

    id: str
    html: str

    @property
    def digest(self) -> str:
        """Changes with its content."""
        return hashlib.sha256(self.html.encode("utf-8", errors="replace")).hexdigest()[:16]


class Page:
    """The page of a run; the files are read once for all who look at it.

    Args:
        run: its folder.
        refresh: seconds for which what was read is kept; longer if reading would take more than a fifth of the time.
        clock: seconds since 1970; for tests.
    """

    def __init__(self, run: Path, refresh: float, clock: Callable[[], float] = time.time) -> None:
        self.run, self.refresh, self.clock = run, refresh, clock
        self.read_at = float("-inf")
        self.cost = 0.0
        """Seconds that the last look took."""
        self.kept: list[Part] = []
        self.drawn: dict[Path, tuple[object, str]] = {}
        """Folder of a stage -> a mark of its log, and its charts, which take a while to draw."""
        self.lock = threading.Lock()

    def parts(self) -> list[Part]:
        """Returns the parts in the order of the page, the last stage first."""
        with self.lock:
            now = self.clock()
            if not 0 <= now - self.read_at < max(self.refresh, SHARE * self.cost):
                began = time.perf_counter()
                self.kept, self.read_at = self._read(now), now
                self.cost = time.perf_counter() - began
            return self.kept

    def _read(self, now: float) -> list[Part]:
        try:
            logs = stages_in(self.run)
        except UserError as error:  # it was moved or removed while somebody watches
            return [Part("gone", render("gone.html.jinja", folder=FOLDER, sentence=str(error)))]
        return [part for log in reversed(logs) for part in self._of_stage(log, now)]

    def _of_stage(self, log: StageLog, now: float) -> list[Part]:
        head = render("head.html.jinja", folder=FOLDER, **head_of(log, now))
        samples = render("samples.html.jinja", folder=FOLDER, samples=samples_of(log))
        named = {"head": head, "curves": self._charts(log), "samples": samples}
        return [Part(f"{log.stage}-{name}", html) for name, html in named.items()]

    def _charts(self, log: StageLog) -> str:
        path = log.folder / "logs" / "metrics.csv"
        mark = (path.stat().st_mtime_ns, path.stat().st_size, log.record is not None) if path.is_file() else None
        if log.folder not in self.drawn or self.drawn[log.folder][0] != mark:
            self.drawn[log.folder] = (mark, charts_of(log))
        return self.drawn[log.folder][1]


def head_of(log: StageLog, now: float) -> dict[str, Any]:
    """Returns what the head of a stage shows: its state, cards and warnings.

    Args:
        log: of the stage.
        now: seconds since 1970.
    """
    state = state_of(log, now)
    cards = [_card(one) for one in figures_of(log) if one.validation or log.stage != "ppo"]
    if (peak := (log.progress or log.record or {}).get("peak_memory_gb")) is not None:
        where = "of the GPU" if (log.progress or {}).get("device") == "cuda" else "of the process"
        cards.append(card("peak memory", f"{number(peak)} GB", f"{where}, rank 0"))
    mood = MOODS.get(state.name, "plain")
    shown: dict[str, Any] = {"title": KINDS[log.stage][0], "state": state.sentence, "note": state.note, "mood": mood}
    return shown | {"cards": cards, "warnings": warnings_of(log)}


def _card(one: Figure) -> dict[str, str]:
    note = "held out" if one.validation else "in training"
    if one.validation and one.training:
        note += f"; in training {number(one.training[-1], digits_of(one.training[-1]))}"
    values = one.validation or one.training
    if len(values) > 1:
        note += f"; at first {number(values[0], digits_of(values[0]))}"
    return card(one.title, number(one.now, digits_of(one.now)), note)


def charts_of(log: StageLog) -> str:
    """Returns the charts of a stage as HTML: those of the report, and those of the diagnostics."""
    curves = thinned(log.curves, POINTS)
    groups = [stage_charts(log.stage, log.stage, curves)]
    further = stage_charts(log.stage, log.stage, curves, DIAGNOSTICS[log.stage])
    return render("curves.html.jinja", folder=FOLDER, curves=groups[0], diagnostics=further)
