"""Options and facts in which the stages of several runs differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_instruct.planning.options import flat
from lit_instruct.run_views.stage_log import StageLog

SILENT = ("model.seed", "data.seed", "trainer.default_root_dir", "trainer.optimizer_steps")
"""They follow from the seed, the run folder and the data."""
ABSENT = "-"
"""Stands for an option that a run does not have."""


def differing(logs: Mapping[str, StageLog]) -> dict[str, dict[str, Any]]:
    """Returns option -> run -> value of the options and facts that are not the same in all runs.

    Options are those that the stages recorded, or, if one of them has no record yet, those that the trainings were
    started with. The folder of the run in a value becomes {run}.

    Args:
        logs: a stage in each run.
    """
    recorded = all(log.record is not None for log in logs.values())
    found = {name: _recorded(log) if recorded else _given(log) for name, log in logs.items()}
    options = dict.fromkeys(option for own in found.values() for option in own)
    rows = {option: {name: own.get(option, ABSENT) for name, own in found.items()} for option in options}
    return {option: row for option, row in rows.items() if option not in SILENT and not _all_equal(list(row.values()))}


def _recorded(log: StageLog) -> dict[str, Any]:
    record = log.record or {}
    data = record.get("data") or {}
    facts: dict[str, Any] = {"seed": record.get("seed"), "base": (record.get("base") or {}).get("source")}
    facts |= {
        f"rows for {part}": data[name]
        for part, name in (("training", "train"), ("validation", "validation"))
        if name in data
    }
    facts |= {f"content of {name}": value for name, value in (data.get("content") or {}).items()}
    facts |= {f"version of {name}": value for name, value in (record.get("versions") or {}).items()}
    trained = log.config.get("run") or log.folder.parent
    return {
        name: _without_run(value, log, str(trained))
        for name, value in (flat(record.get("options") or {}) | facts).items()
    }


def _given(log: StageLog) -> dict[str, Any]:
    config = log.config
    options = flat({name: config.get(name) for name in ("model", "data", "trainer")}) | {
        "seed": config.get("seed_everything")
    }
    return {name: _without_run(value, log, str(config.get("run"))) for name, value in options.items()}


def _without_run(value: Any, log: StageLog, trained_in: str) -> Any:
    """A value with the folder of its run, where it is now or where it was then, as {run}."""
    for folder in (str(log.folder.parent), trained_in):
        if isinstance(value, str) and (value == folder or value.startswith(f"{folder}/")):
            return "{run}" + value.removeprefix(folder)
    return str(value) if isinstance(value, Path) else value


def _all_equal(values: list[Any]) -> bool:
    return all((one == values[0] and type(one) is type(values[0])) or _same_number(one, values[0]) for one in values)


def _same_number(one: Any, other: Any) -> bool:
    """Whether two values are one number: YAML reads 1e-3 as a text."""
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return False
