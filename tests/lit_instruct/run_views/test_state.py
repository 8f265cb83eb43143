"""What a stage is doing, by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lit_instruct.run_views.stage_log import StageLog
from lit_instruct.run_views.state import State, state_of
from tests.lit_instruct.run_views.runs import NOW, ppo_log, progress, record, write_stage

HELD = {"lock": NOW - 110}
LOG = {"log": ppo_log(4)}
DONE = record("ppo", {"val/reward": 0.5, "val/kl": 2.0})
BEFORE = DONE | record("ppo", {"val/reward": 0.5}, made=NOW - 500)
RESUME = "--ckpt_path=last resumes it"


def state(tmp_path: Path, files: dict[str, Any]) -> State:
    return state_of(StageLog(write_stage(tmp_path / "ppo", **files)), NOW)


@pytest.mark.parametrize(
    ("files", "name", "sentence"),
    [
        (HELD | LOG | {"state": progress("ppo", 4, 10)}, "training", "iteration 4 of 10, 24 s each, about 2 min left"),
        (
            HELD | LOG | {"state": progress("ppo", 4, 10, phase="sampling 3/32")},
            "training",
            "training: iteration 4 of 10 (sampling 3/32), 24 s each",
        ),
        (HELD | LOG | {"state": progress("ppo", 4, None)}, "training", "training: iteration 4, 24 s each"),
        (HELD | LOG | {"state": progress("ppo", 0, 10)}, "training", "training: iteration 0 of 10"),
        (HELD | LOG | {"state": progress("ppo", 14, 20, first=4)}, "training", "9.5 s each, about 52 s left"),
        (HELD | LOG | {"state": progress("ppo", 4, 10), "made": BEFORE}, "training", "iteration 4 of 10"),
        (HELD | LOG | {"state": progress("ppo", 9, 9, ended="complete")}, "training", "the result is being written"),
        (
            HELD | LOG | {"state": progress("ppo", 9, 9, ended="complete"), "made": DONE},
            "finished",
            "0.5 at a KL of 2.00",
        ),
        (LOG | {"state": progress("ppo", 9, 9, ended="complete"), "made": DONE}, "finished", "finished in 2 min"),
        (LOG | {"made": DONE | {"created": "2030-01-01T00:00:00+00:00"}}, "finished", "validation reward 0.5"),
        (
            LOG | {"state": progress("ppo", 4, 10, ended="stopped")},
            "stopped",
            f"stopped after iteration 4 of 10; {RESUME}",
        ),
        (LOG | {"state": progress("ppo", 4, 10)}, "stopped", "ended after iteration 4 of 10 without a result"),
        (
            LOG | {"state": progress("ppo", 4, 10, ended="UserError: the labeler has gone home")},
            "failed",
            "failed after iteration 4 of 10: UserError: the labeler has gone home",
        ),
        (
            HELD | LOG | {"state": progress("ppo", 4, 10, written=NOW - 3600, stepped=NOW - 3600, began=NOW - 3640)},
            "silent",
            f"no sign of life for 1 h 0 min, after iteration 4 of 10; it was probably killed, and {RESUME}",
        ),
        (
            HELD | LOG | {"state": progress("ppo", 2, 10, written=NOW - 400, stepped=NOW - 400, began=NOW - 600)},
            "training",
            "",
        ),
        ({"lock": NOW - 30}, "starting", "models and data are being loaded"),
        ({"lock": NOW - 30, "made": BEFORE}, "starting", "models and data are being loaded"),
        ({"lock": NOW - 3600}, "silent", "no sign of life for 1 h 0 min: it has started and logged nothing"),
        (HELD | LOG, "training", "the last line of its log came 2 s ago"),
        (LOG, "stopped", f"stopped or killed without a result, 2 s ago by its log; {RESUME}"),
    ],
)
def test_a_stage_in_words(tmp_path: Path, files: dict[str, Any], name: str, sentence: str) -> None:
    found = state(tmp_path, files)
    assert found.name == name
    assert sentence in found.sentence


def test_the_time_left_counts_down_within_a_step(tmp_path: Path) -> None:
    files = HELD | LOG | {"state": progress("ppo", 5, 6, stepped=NOW - 20)}  # 16 s each, and 20 s since the last
    assert state(tmp_path, files).sentence.endswith("about 0 s left")


def test_how_it_ended_is_a_note(tmp_path: Path) -> None:
    made = {"made": DONE | {"ending": "the budget was reached"}}
    assert state(tmp_path, LOG | made).note == "the budget was reached"
    assert state(tmp_path, LOG | made | {"state": progress("ppo", 1, 9, began=NOW - 5)}).note == ""  # a new training
