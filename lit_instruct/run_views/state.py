"""Whether a stage is training, has finished, was stopped or has died, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lit_instruct.files import LOCK
from lit_instruct.progress import in_words
from lit_instruct.run_views.stage_log import StageLog
from lit_instruct.running.next_command import main_figure

Name = Literal["starting", "training", "finished", "stopped", "failed", "silent"]
LEAST_SILENCE = 120.0
"""Seconds without a sign of life that are nothing unusual; so are ten steps."""
STARTING = 900.0
"""Seconds that loading models and data may take."""
STEP = {"sft": "step", "rm": "step", "ppo": "iteration"}


class State(NamedTuple):
    """What a stage is doing."""

    name: Name
    sentence: str
    note: str = ""
    """What else the stage recorded of its end."""


def state_of(log: StageLog, now: float) -> State:
    """Returns what a stage is doing.

    A stage holds the lock file `.lock` while it runs; one that is killed leaves the file, and writes nothing more.

    Args:
        log: of the stage.
        now: seconds since 1970.
    """
    progress, record = log.progress, log.record
    lock = log.folder / LOCK
    since = _time_of(lock)
    if since is not None and (progress is None or progress["written"] < since) and _time_of_log(log) <= since:
        if now - since < STARTING:
            return State("starting", "starting: models and data are being loaded")
        said = "it has started and logged nothing; it was probably killed while it loaded models and data"
        return State("silent", f"no sign of life for {in_words(now - since)}: {said}")
    if record is not None and _made(record) >= _began(log, since is not None):
        return State("finished", _finished(record), str(record.get("ending") or ""))
    if progress is None:
        return _without_progress(log, since is not None, now)
    held = since is not None
    done = f"{STEP[log.stage]} {progress['done']}" + (f" of {progress['total']}" if progress["total"] else "")
    ended, silence = progress["ended"], max(0.0, now - progress["written"])
    if ended == "complete" and held and silence < STARTING:
        return State("training", f"all steps are done ({done}); the result is being written")
    if ended == "stopped":
        return State("stopped", f"stopped after {done}; --ckpt_path=last resumes it")
    if ended is not None and ended != "complete":
        return State("failed", f"failed after {done}: {ended}")
    each = _pace(progress)
    if not held:
        return State("stopped", f"ended after {done} without a result; --ckpt_path=last resumes it")
    if silence > max(LEAST_SILENCE, 10 * (each or STARTING / 10)):
        said = f"no sign of life for {in_words(silence)}, after {done}; it was probably killed, and --ckpt_path=last"
        return State("silent", f"{said} resumes it")
    return State("training", _training(progress, done, each, now))


def _training(progress: dict[str, Any], done: str, each: float | None, now: float) -> str:
    words = f"training: {done}" + (f" ({progress['phase']})" if progress["phase"] else "")
    if each is None:
        return words
    words += f", {each:.2g} s each" if each < 10 else f", {in_words(each)} each"
    if not progress["total"] or progress["done"] >= progress["total"]:
        return words
    left = (progress["total"] - progress["done"]) * each - (now - progress["stepped"])
    return f"{words}, about {in_words(max(0.0, left))} left"


def _pace(progress: dict[str, Any]) -> float | None:
    """Seconds per step, the mean over those of this training that are complete."""
    steps = progress["done"] - progress["first"]
    return (progress["stepped"] - progress["began"]) / steps if steps > 0 else None


def _without_progress(log: StageLog, held: bool, now: float) -> State:
    """The state of a training of a version that wrote no progress."""
    silence = max(0.0, now - _time_of_log(log))
    if held and silence < STARTING:
        return State("training", f"training; the last line of its log came {in_words(silence)} ago")
    said = f"stopped or killed without a result, {in_words(silence)} ago by its log; --ckpt_path=last resumes it"
    return State("stopped", said)


def _finished(record: dict[str, Any]) -> str:
    figure, seconds = main_figure(str(record["stage"]), record["metrics"]), record.get("seconds")
    words = "finished" + (f" in {in_words(seconds)}" if isinstance(seconds, int | float) else "")
    return ": ".join(filter(None, [words, figure]))


def _made(record: dict[str, Any]) -> float:
    """When a result was written, in seconds since 1970."""
    try:
        made = datetime.fromisoformat(str(record.get("created")))
    except ValueError:
        return 0.0
    return made.replace(tzinfo=made.tzinfo or UTC).timestamp() + 1.0  # it has whole seconds, rounded down


def _began(log: StageLog, held: bool) -> float:
    """When the last training began, in seconds since 1970; 0 for one of a version that wrote no progress."""
    if log.progress is not None:
        return float(log.progress["began"])
    return _time_of_log(log) if held else 0.0


def _time_of_log(log: StageLog) -> float:
    return _time_of(log.folder / "logs" / "metrics.csv") or 0.0


def _time_of(path: Path) -> float | None:
    """When a file was last written, in seconds since 1970; None if it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return None
