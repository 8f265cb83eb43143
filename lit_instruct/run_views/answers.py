"""Scores of the same prompts in several runs: means with intervals, and paired differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.evaluation.measures import bootstrap, paired_difference, rounded
from lit_instruct.files import complete_lines, digest
from lit_instruct.json_types import fits
from lit_instruct.run_views.stage_log import StageLog

Scores = dict[str, list[tuple[str, float]]]
"""Measure -> (prompt, score) of each response."""
SEED = 0
"""Of the bootstrap."""
ONE_RULER = "no difference: {what} of the runs are not the same"


def validation_scores(log: StageLog) -> Scores:
    """Returns the scores of the validation samples of PPO whose policy was handed over; of the last ones until then."""
    at = _validation_of_result(log)
    rows = [row for row in log.samples if row["iteration"] == at]
    names = [name for name in ("reward", "labeler", "kl", "length") if rows and all(name in row for row in rows)]
    keys = _keys([row["prompt"] for row in rows])
    return {
        name: [(key, float(row[name])) for key, row in zip(keys, rows, strict=True)]
        for name in names
        if all(fits(row[name], float) for row in rows)
    }


def _validation_of_result(log: StageLog) -> int | None:
    last = max((row["iteration"] for row in log.samples), default=None)
    reward = ((log.record or {}).get("metrics") or {}).get("val/reward")
    xs, ys = log.curves.get("val/reward", ([], []))
    return next((int(x) for x, y in zip(reversed(xs), reversed(ys), strict=True) if y == reward), last)


def evaluation_scores(run: Path) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Returns the scores of each system in the evaluation of a run, and its report; nothing if there is none.

    Raises:
        UserError: the report or its samples are damaged.
    """
    report, samples = run / "eval" / "report.json", run / "eval" / "samples.jsonl"
    if not report.is_file() or not samples.is_file():
        return {}, {}
    try:
        rows = [json.loads(line) for line in complete_lines(samples)]
        keys = _keys([row["prompt"] for row in rows])
        found: dict[str, Scores] = {}
        for key, row in zip(keys, rows, strict=True):
            for system, answer in row["responses"].items():
                for measure in ("labeler", "second_labeler", "reward", "tokens"):
                    if measure in answer:
                        name = "length" if measure == "tokens" else measure
                        found.setdefault(system, {}).setdefault(name, []).append((key, float(answer[measure])))
        return found, dict(json.loads(report.read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{samples.parent}: damaged ({error}); evaluate that run again") from error


def _keys(prompts: Sequence[Any]) -> list[str]:
    """A name for each prompt; of equal ones the first, second and so on are the same in every run."""
    seen: dict[str, int] = {}
    keys = []
    for prompt in prompts:
        text = json.dumps(prompt, sort_keys=True)
        seen[text] = seen.get(text, 0) + 1
        keys.append(f"{seen[text]}: {text}")
    return keys


def measured(
    scores: Mapping[str, Scores], ruler: Callable[[str, str], Any] = lambda measure, run: None
) -> dict[str, dict[str, Any]]:
    """Returns measure -> run -> interval, and the paired difference of each run to the first.

    Args:
        scores: of each run, in order; a run without a measure is left out of it.
        ruler: (measure, run) -> what it was measured with there; if that is not the same, there is no difference.
    """
    names = list(dict.fromkeys(name for own in scores.values() for name in own))
    return {
        name: _of_measure(name, {run: own[name] for run, own in scores.items() if name in own}, ruler) for name in names
    }


def _of_measure(
    name: str, scores: Mapping[str, list[tuple[str, float]]], ruler: Callable[[str, str], Any]
) -> dict[str, Any]:
    values = {run: [score for _, score in own] for run, own in scores.items()}
    found: dict[str, Any] = {
        "runs": {run: rounded(bootstrap(own, SEED)) | {"prompts": len(own)} for run, own in values.items()}
    }
    first, *others = scores
    if not others:
        return found
    if len({json.dumps(ruler(name, run), sort_keys=True) for run in scores}) > 1:
        return found | {"note": ONE_RULER.format(what={"reward": "the rewards"}.get(name, "the judges"))}
    differences, theirs = {}, dict(scores[first])
    for run in others:
        shared = [(score, theirs[key]) for key, score in scores[run] if key in theirs]
        if len(shared) < 2:
            found["note"] = f"no difference: {run} and {first} did not answer the same prompts"
            continue
        difference = paired_difference([a for a, _ in shared], [b for _, b in shared], SEED)
        differences[run] = rounded(difference) | {"prompts": len(shared)}
    return found | {"minus": first, "differences": differences}


def reward_of(log: StageLog) -> Any:
    """Returns what is equal if two PPO stages have the same reward: its options, and digests of its models."""
    reward = ((log.options or {}).get("model") or {}).get("reward") or {}
    if reward.get("function") is not None:
        return reward
    models = [mark_of_model(name, log.folder.parent) for name in str(reward.get("model")).split(",")]
    return reward | {"model": models}


def mark_of_model(name: str, run: Path) -> str:
    """Returns what is equal for equal reward models: a digest of the record of a stage, or the name of another model.

    Args:
        name: as the run recorded it, with {run} or with the folder that the run had then.
        run: its folder now.
    """
    folder, own = Path(name.replace("{run}", str(run))), run / "rm"
    if folder.name == own.name and not folder.is_dir():  # the run was moved
        folder = own
    return digest(folder) if (folder / "stage.json").is_file() else name
