"""The time that a recipe is said to take is the recorded one, scaled by the speed of this processor."""

from __future__ import annotations

from recipes.how_long import line, recorded

MEASURED = {"seconds": {"sft": 60.0, "rm": 90.0, "ppo": 120.0, "eval": 30.0}, "seconds_per_token": 2e-6}


def test_a_processor_of_half_the_speed_takes_twice_as_long() -> None:
    assert line(MEASURED, 4e-6) == (
        "about 10 minutes on this processor (sft 2.0, rm 3.0, ppo 4.0, eval 1.0), which is 0.5 times as fast as the "
        "one that it was measured on"
    )


def test_a_short_recipe_takes_a_minute_at_least() -> None:
    assert line(MEASURED, 1e-8).startswith("about 1 minute on this processor")


def test_a_record_says_where_it_was_made_and_how_fast_that_is() -> None:
    report = {
        "base": {"source": "smollm2-135m-instruct"},
        "seconds": {"sft": 1.0},
        "machine": {"cpu_cores": 2},
        "versions": {"torch": "2"},
        "date": "2026-11-28",
        "labeler": {},
    }
    found = recorded(report, "AMD", 3e-6)
    assert found["seconds_per_token"] == 3e-6 and found["processor"] == "AMD" and "labeler" not in found
    assert {key: found[key] for key in ("seconds", "machine", "versions", "date")} == {
        key: report[key] for key in ("seconds", "machine", "versions", "date")
    }
