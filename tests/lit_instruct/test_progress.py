"""Bars in a terminal, and seldom lines elsewhere."""

from __future__ import annotations

import io
import logging

import pytest

from lit_instruct import progress
from lit_instruct.progress import Progress, in_words, track


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def states(stream: io.StringIO) -> list[str]:
    """What a bar showed, one after the other."""
    return [state.strip() for state in stream.getvalue().replace("\n", "\r").split("\r") if state.strip()]


def test_a_terminal_shows_phase_pace_time_left_and_figures() -> None:
    stream, clock = Terminal(), Clock()
    with Progress("ppo", 4, stream=stream, clock=clock) as shown:
        shown.update(0, "sampling 12/32")
        clock.now += 8
        shown.update(1, "", {"KL": "1.5", "odd": "{0}"})
        clock.now += 3
        shown.update(1, "update 3/4")
    first, after_a_step, inside, *_ = dict.fromkeys(states(stream))  # tqdm draws some states twice
    assert "0/4 [00:00, sampling 12/32]" in first
    assert "25%" in after_a_step and after_a_step.endswith(", 8.00 s/it, 24 s left, KL=1.5, odd={0}]")
    assert inside.endswith(", 8.00 s/it, 21 s left, update 3/4]")
    assert stream.getvalue().endswith("\n")


def test_resuming_counts_the_steps_of_this_run_alone() -> None:
    clock = Clock()
    shown = Progress("sft", 100, 90, stream=io.StringIO(), clock=clock)
    clock.now += 10
    shown.update(95)
    assert (shown.seconds_per_step, shown.seconds_left) == (2.0, 10.0)


def test_a_bar_is_not_drawn_too_often() -> None:
    stream, clock = Terminal(), Clock()
    shown = Progress("sft", 1000, stream=stream, clock=clock)
    for step in range(1000):
        clock.now += 0.001
        shown.update(step + 1)
    assert len(states(stream)) <= 11


def test_log_messages_appear_above_the_bar() -> None:
    stream = Terminal()
    with Progress("sft", 4, stream=stream) as shown:
        shown.update(1)
        shown.write("a line")
        assert not logging.getLogger().handlers or logging.getLogger().handlers[-1].formatter is None
    assert "a line" in states(stream)


@pytest.mark.parametrize(("hours", "most"), [(0.05, 10), (1, 65), (24, 220)])
def test_a_log_file_stays_short(hours: float, most: int) -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("ppo", 100_000, stream=stream, clock=clock) as shown:
        for step in range(100_000):
            clock.now += hours * 3600 / 100_000
            shown.update(step + 1, "update 1/4", {"KL": "1"})
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= most
    assert all(line.startswith("ppo: ") and line.endswith(" left, update 1/4, KL=1") for line in lines)
    assert "\r" not in stream.getvalue()


def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(track([1, 2, 3], "scores")) == [1, 2, 3]
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert list(track([1, 2, 3], "scores")) == [1, 2, 3]
    assert (terminal.getvalue(), capsys.readouterr().err) == ("", "")


def test_longer_work_shows_a_bar_and_clears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SHORT", 0.0)
    monkeypatch.setattr(progress, "REDRAW", 0.0)
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert list(track([1, 2, 3], "scores")) == [1, 2, 3]
    assert any("scores" in state and "2/3" in state for state in states(terminal))
    assert terminal.getvalue().endswith("\r")
    terminal.truncate(0)
    assert list(track([1, 2, 3], None)) == [1, 2, 3]
    assert terminal.getvalue() == ""


def test_times_in_words() -> None:
    times = {0.4: "0 s", 75: "75 s", 100: "2 min", 3600: "1 h 0 min", 11_100: "3 h 5 min", 187_200: "2 d 4 h"}
    assert {seconds: in_words(seconds) for seconds in times} == times
