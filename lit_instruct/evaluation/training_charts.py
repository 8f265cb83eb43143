"""The report's charts of training: which columns of a stage's log are drawn, and what is left out of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from lit_instruct.evaluation import charts
from lit_instruct.evaluation.charts import Curves, Series
from lit_instruct.evaluation.page import number

if TYPE_CHECKING:
    from lit_instruct.handover import Stage


class Recorded(Protocol):
    """What the charts need to know of a stage."""

    @property
    def stage(self) -> str:
        """sft, rm or ppo."""

    @property
    def options(self) -> dict[str, Any] | None:
        """Options of `model`, `data` and `trainer`."""

    @property
    def data(self) -> dict[str, Any] | None:
        """Number of rows."""


class Curve(NamedTuple):
    """A chart of training: its title and the columns of metrics.csv; an empty name draws no line."""

    title: str
    train: str
    validation: str = ""


CURVES = {
    "ppo": [
        Curve("reward", "ppo/reward", "val/reward"),
        Curve("KL to SFT, nats per response", "ppo/kl", "val/kl"),
        Curve("response length, tokens", "ppo/response_length", "val/response_length"),
        Curve("EOS share", "ppo/eos_share", "val/eos_share"),
        Curve("policy loss", "loss/policy"),
        Curve("value loss", "loss/value"),
        Curve("pretraining loss", "loss/pretraining"),
        Curve("entropy", "ppo/entropy"),
    ],
    "rm": [
        Curve("loss", "train/loss", "val/loss"),
        Curve("pair accuracy", "train/pair_accuracy", "val/pair_accuracy"),
        Curve("calibration error", "", "val/calibration_error"),
    ],
    "sft": [Curve("loss", "train/loss", "val/loss"), Curve("token accuracy", "", "val/token_accuracy")],
}
"""Charts of each kind of stage, in the order of the page."""
KINDS = {
    "ppo": ("PPO", "PPO iteration", charts.PPO),
    "rm": ("Reward model", "optimizer step", charts.BEST),
    "sft": ("SFT", "optimizer step", charts.SFT),
}


def training_charts(stages: Mapping[str, tuple[Path, Stage]]) -> list[dict[str, Any]]:
    """Returns the groups of charts, one per stage, PPO first; missing logs and columns are left out.

    Args:
        stages: folder and record of each, by its name in the report.
    """
    ordered = [(name, *stages[name]) for kind in KINDS for name in stages if stages[name][1].stage == kind]
    return [stage_charts(name, stage.stage, read_curves(folder, stage)) for name, folder, stage in ordered]


def read_curves(folder: Path, stage: Recorded) -> Curves:
    """Returns the columns of a stage's log, without the values of batches that were not full."""
    x = "ppo/iteration" if stage.stage == "ppo" else "step"
    curves = charts.read_metrics(folder / "logs" / "metrics.csv", x=x)
    steps = steps_with_partial_end(stage)
    return {
        name: whole_batches(curve, steps) if steps is not None and name.startswith("train/") else curve
        for name, curve in curves.items()
    }


def steps_with_partial_end(stage: Recorded) -> int | None:
    """Returns the optimizer steps of an epoch of SFT or reward model if its last batch is not full; else None."""
    options, rows = stage.options or {}, (stage.data or {}).get("train")
    data, trainer = options.get("data") or {}, options.get("trainer") or {}
    packs = ((options.get("model") or {}).get("trl") or {}).get("packing")
    together = (data.get("batch_size") or 0) * (trainer.get("world_size") or 1)
    if stage.stage == "ppo" or packs or not rows or not together or rows % together == 0:
        return None
    return math.ceil(math.ceil(rows / together) / (trainer.get("accumulate_grad_batches") or 1))


def whole_batches(curve: tuple[list[float], list[float]], steps: int) -> tuple[list[float], list[float]]:
    """Leaves out the last step of each epoch of `steps` steps, counted from 0, unless nothing else is left."""
    kept = [(x, y) for x, y in zip(*curve, strict=True) if (x + 1) % steps]
    return ([x for x, _ in kept], [y for _, y in kept]) if kept else curve


def stage_charts(name: str, kind: str, curves: Curves, shown: Sequence[Curve] | None = None) -> dict[str, Any]:
    """Returns the charts of a stage; what has a single value is text, because one dot is no curve.

    Args:
        name: of the stage in the report.
        kind: sft, rm or ppo.
        curves: of its log.
        shown: the charts; None for `CURVES` of that kind.
    """
    title, x_label, color = KINDS[kind]
    title = title if name == kind else f"{name}: {title}"
    drawn, values = [], []
    for curve in CURVES[kind] if shown is None else shown:
        lines = (("training", curve.train, color, False), ("validation", curve.validation, charts.INK, True))
        series = [
            Series(label, tint, *curves[column], dashed=dashed)
            for label, column, tint, dashed in lines
            if column in curves
        ]
        if svg := charts.line_chart(
            re.sub(r"\W+", "-", f"{name}-{curve.title}"), f"{title}: {curve.title}", x_label, series
        ):
            drawn.append({"title": curve.title, "svg": svg})
        else:
            values += [f"{curve.title}, {one.label}: {number(one.y[0], 3)}" for one in series if one.y]
    return {"name": title, "charts": drawn, "values": values}
