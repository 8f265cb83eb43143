"""What is shown of a stage: its main figures, diagnostics, curves and samples."""

from __future__ import annotations

from typing import Any, NamedTuple

from lit_instruct.evaluation.charts import Curves
from lit_instruct.evaluation.training_charts import CURVES, Curve
from lit_instruct.ppo.diagnostics import Diagnostics
from lit_instruct.run_views.stage_log import StageLog

DIAGNOSTICS = {
    "ppo": [
        Curve("clip share", "ppo/clip_share"),
        Curve("explained variance", "ppo/explained_variance"),
        Curve("KL coefficient", "ppo/kl_coef"),
        Curve("spread of advantages", "ppo/advantage_std"),
        Curve("correlation of reward and length", "ppo/reward_length_correlation", "val/reward_length_correlation"),
        Curve("gradient norm, policy", "grad_norm/policy"),
        Curve("gradient norm, value", "grad_norm/value"),
        Curve("tokens per second", "ppo/tokens_per_second"),
        Curve("labeler", "", "val/labeler"),
    ],
    "rm": [Curve("gradient norm", "train/grad_norm"), Curve("learning rate", "train/learning_rate")],
    "sft": [Curve("gradient norm", "train/grad_norm"), Curve("learning rate", "train/learning_rate")],
}
"""Further charts of each kind of stage, that tell a sick run (docs/diagnostics.md)."""
SAMPLES = 6
"""Samples of the last validation that are shown."""


class Figure(NamedTuple):
    """A figure of a stage now."""

    title: str
    training: list[float]
    """Values so far; [] if it is not measured in training."""
    validation: list[float]

    @property
    def now(self) -> float:
        """The last value, of the validation if there was one."""
        return (self.validation or self.training)[-1]


def figures_of(log: StageLog, shown: list[Curve] | None = None) -> list[Figure]:
    """Returns the figures of a stage that have been measured, in the order of the page."""
    wanted = CURVES[log.stage] if shown is None else shown
    values = {name: ys for name, (_, ys) in log.curves.items()}
    found = [Figure(one.title, values.get(one.train, []), values.get(one.validation, [])) for one in wanted]
    return [one for one in found if one.training or one.validation]


def digits_of(value: float) -> int:
    """Returns the decimals that show a value to about three digits."""
    size = abs(value)
    return 0 if size >= 1000 else 2 if size >= 1 else 3 if size >= 0.01 or size == 0 else 6


def warnings_of(log: StageLog) -> list[str]:
    """Returns the warnings of PPO (`ppo.diagnostics`) that its log gives rise to, and what cannot be read."""
    limit = (((log.options or {}).get("model") or {}).get("sampling") or {}).get("max_new_tokens")
    if log.stage != "ppo" or not isinstance(limit, int):
        return list(log.wrong)
    diagnostics, said = Diagnostics(limit), list(log.wrong)
    for row in _rows(log.curves):
        if "val/reward" in row:
            said += diagnostics.validation(row)
        if "ppo/first_ratio_error" in row and not row.get("ppo/skipped_steps"):
            said += diagnostics.iteration(row)
    return said


def _rows(curves: Curves) -> list[dict[str, float]]:
    """The rows of a log, one for each iteration, with what its validation measured."""
    rows: dict[float, dict[str, float]] = {}
    for name, (xs, ys) in curves.items():
        for x, y in zip(xs, ys, strict=True):
            rows.setdefault(x, {})[name] = y
    return [rows[x] for x in sorted(rows)]


def samples_of(log: StageLog) -> list[dict[str, Any]]:
    """Returns the first samples of the last validation; [] before it."""
    last = max((row["iteration"] for row in log.samples), default=None)
    return [row for row in log.samples if row["iteration"] == last][:SAMPLES]
