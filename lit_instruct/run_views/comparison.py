"""Several runs beside each other: states, final figures with intervals and differences, options that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.evaluation.training_charts import CURVES
from lit_instruct.run_views.answers import evaluation_scores, mark_of_model, measured, reward_of, validation_scores
from lit_instruct.run_views.options_compared import differing
from lit_instruct.run_views.stage_log import STAGES, StageLog, stages_in
from lit_instruct.run_views.state import state_of

MOST_RUNS = 8
Logs = dict[str, dict[str, StageLog]]
"""Stage -> name of a run -> its stage."""


def read_runs(runs: Sequence[str]) -> tuple[dict[str, Path], Logs]:
    """Returns the folders of runs by short names, and the stages that at least two of them have.

    Raises:
        UserError: fewer than two runs, the same one twice, no such run, or no stage in common.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise UserError(f"compare: give 2 to {MOST_RUNS} runs, such as `lit-instruct compare runs/a runs/b`")
    paths = [Path(run) for run in runs]
    for number, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:number]]:
            raise UserError(f"{path}: this run is given twice")
    stages = {path: {log.stage: log for log in stages_in(path)} for path in paths}
    short = [path.absolute().name for path in paths]
    names = [name if short.count(name) == 1 else str(path) for name, path in zip(short, paths, strict=True)]
    folders = dict(zip(names, paths, strict=True))
    logs = {
        stage: {name: stages[path][stage] for name, path in folders.items() if stage in stages[path]}
        for stage in STAGES
    }
    shared = {stage: own for stage, own in logs.items() if len(own) > 1}
    if not shared:
        said = "; ".join(f"{name} has {', '.join(stages[path])}" for name, path in folders.items())
        raise UserError(f"compare: these runs have no stage in common ({said})")
    return folders, shared


def compared_runs(folders: Mapping[str, Path], logs: Logs, now: float) -> dict[str, Any]:
    """Returns all that is compared, as JSON holds it.

    Args:
        folders: of the runs, by name; differences are to the first.
        logs: of `read_runs`.
        now: seconds since 1970.

    Raises:
        UserError: an evaluation is damaged.
    """
    found: dict[str, Any] = {"runs": {name: str(path) for name, path in folders.items()}, "notes": []}
    found["stages"] = {stage: _of_stage(stage, own, now) for stage, own in logs.items()}
    for stage in STAGES:
        having = [name for name, path in folders.items() if (path / stage).is_dir()]
        if stage not in logs and having:
            found["notes"].append(f"only {having[0]} has the stage {stage}, which is left out")
        elif stage in logs and len(logs[stage]) < len(folders):
            missing = [name for name in folders if name not in logs[stage]]
            found["notes"].append(f"{', '.join(missing)} has no stage {stage}")
    found["evaluation"] = _evaluations(folders, found["notes"])
    return found


def _of_stage(stage: str, logs: Mapping[str, StageLog], now: float) -> dict[str, Any]:
    states = {name: state_of(log, now) for name, log in logs.items()}
    names = [column for curve in CURVES[stage] for column in (curve.validation, curve.train) if column]
    figures = {column: {name: _final(log, column) for name, log in logs.items()} for column in names}
    memory = {name: (log.record or log.progress or {}).get("peak_memory_gb") for name, log in logs.items()}
    seconds = {name: (log.record or {}).get("seconds") for name, log in logs.items()}
    found: dict[str, Any] = {
        "states": {name: {"state": state.name, "sentence": state.sentence} for name, state in states.items()},
        "figures": {name: row for name, row in figures.items() if any(value is not None for value in row.values())},
        "peak_memory_gb": memory,
        "seconds": seconds,
        "options": differing(logs),
        "wrong": [f"{name}: {said}" for name, log in logs.items() for said in log.wrong],
    }
    if stage == "ppo":
        rewards = {name: reward_of(log) for name, log in logs.items()}
        scores = {name: scores for name, log in logs.items() if (scores := validation_scores(log))}
        found["validation"] = measured(scores, lambda measure, run: rewards[run] if measure == "reward" else None)
        found["one_reward"] = all(one == next(iter(rewards.values())) for one in rewards.values())
    return found


def _final(log: StageLog, column: str) -> float | None:
    """A figure of the result, or of a training without a result the last one so far."""
    if log.record is not None:
        value = log.record["metrics"].get(column)
        return float(value) if value is not None else None
    return log.curves[column][1][-1] if column in log.curves else None


def _evaluations(folders: Mapping[str, Path], notes: list[str]) -> dict[str, Any]:
    """System -> measure -> intervals and differences, for systems that at least two evaluations have."""
    read = {name: evaluation_scores(path) for name, path in folders.items()}
    read = {name: found for name, found in read.items() if found[0]}
    if len(read) < 2:
        if read:
            notes.append(f"only {next(iter(read))} has an evaluation, which is left out")
        return {}
    judges = {name: report.get("options") or {} for name, (_, report) in read.items()}
    models = {
        name: mark_of_model(str((report.get("models") or {}).get("reward_model")), folders[name])
        for name, (_, report) in read.items()
    }
    systems = dict.fromkeys(system for scores, _ in read.values() for system in scores)
    found = {}
    for system in systems:
        scores = {name: own[system] for name, (own, _) in read.items() if system in own}
        if len(scores) > 1:
            found[system] = measured(scores, lambda measure, run: _ruler(measure, judges[run], models[run]))
    return found


def _ruler(measure: str, options: Mapping[str, Any], model: Any) -> Any:
    """What a measure of an evaluation was measured with."""
    return model if measure == "reward" else options.get(measure) if measure.endswith("labeler") else None
