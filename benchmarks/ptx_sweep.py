"""PPO-ptx on the demo: what each weight of the pretraining mix does to held-out pretraining loss, reward and labeler.

`make sft rm` first. `python -m benchmarks.ptx_sweep` trains the demo's recipe for some iterations with each
`ptx_coef`, measures before and after, and writes benchmarks/results/ptx-sweep.json and ptx-sweep.png. Four fifths of
the demo's pretraining text are mixed in, the last fifth is held out.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import DEMO, Command, Found, run_side, say, scratch_folder

COEFFICIENTS = (0.0, 0.1, 1.0, 10.0, 27.8)
"""The last is the paper's, for another model, batch and sum."""
HELD_OUT = 0.2
MEASURES = ("pretraining_loss", "reward", "labeler", "kl")
NOTE = (
    "ptx_coef weighs the mean next-token loss of a pretraining token beside the mean clipped objective of a response "
    "token; the paper's 27.8 weighs other means. pretraining_loss is the mean next-token loss on held-out text, nats; "
    "reward, labeler and kl are means over sampled responses to held-out prompts, by the same random numbers each time"
)


def split_text(text: str) -> tuple[str, str]:
    """Returns the lines that are trained on, and the HELD_OUT last ones."""
    lines = text.splitlines(keepends=True)
    first = round(len(lines) * (1 - HELD_OUT))
    return "".join(lines[:first]), "".join(lines[first:])


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the change over each run, and its end compared with the run of ptx_coef 0, which has to be there."""
    plain = next(run for run in runs if run["ptx_coef"] == 0)
    found = []
    for run in runs:
        change = {name: round(run["after"][name] - run["before"][name], 4) for name in MEASURES}
        beside = {name: round(run["after"][name] - plain["after"][name], 4) for name in MEASURES}
        found.append({**run, "change": change, "beside_plain_ppo": beside})
    return {"note": NOTE, "measures": MEASURES, "runs": found}


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws held-out pretraining loss, and reward and labeler score, after the training against ptx_coef."""
    from benchmarks.plots import COLORS, panels, save

    figure, charts = panels(2)
    places = range(len(runs))
    for chart, names in zip(charts, (["pretraining_loss"], ["reward", "labeler"]), strict=True):
        for name, color in zip(names, COLORS, strict=False):
            label = name.replace("_", " ")
            chart.plot(places, [run["after"][name] for run in runs], "o-", color=color, label=f"{label}, after")
            chart.axhline(runs[0]["before"][name], color=color, linestyle="--", linewidth=1, label=f"{label}, before")
        chart.set_xticks(list(places), [f"{run['ptx_coef']:g}" for run in runs])
        chart.set_xlabel("ptx_coef")
        chart.legend()
    charts[0].set_ylabel("nats per token of held-out text")
    charts[1].set_ylabel("mean over held-out prompts")
    save(figure, path)


def measure(options: Namespace) -> Found:
    """Trains with each coefficient, and draws the sweep."""
    text = DEMO / "pretraining.txt" if options.text is None else Path(options.text)
    runs = []
    with scratch_folder() as name:
        parts = dict(zip(("train", "held_out"), split_text(text.read_text(encoding="utf-8")), strict=True))
        for part, content in parts.items():
            (Path(name) / f"{part}.txt").write_text(content, encoding="utf-8")
        for coefficient in sorted({0.0, *options.coefficients}):
            given = {"run": options.run, "folder": name, "iterations": options.iterations, "words": options.option}
            runs.append(run_side("benchmarks.ptx_sweep_side", "train", given | {"ptx_coef": coefficient}))
            say(f"ptx_coef {coefficient:g}: {runs[-1]['after']}")
    found = {"iterations": options.iterations, **summary(runs)}
    return Found(found, "ptx-sweep.json", ("ptx-sweep",), chart=partial(draw, found["runs"]))


OPTIONS = {
    "--run": {"default": "runs/demo", "help": "folder with the stages sft and rm of the demo"},
    "--coefficients": {"type": float, "nargs": "+", "default": COEFFICIENTS, "help": "ptx_coef; 0 is added"},
    "--iterations": {"type": int, "default": 6, "help": "iterations of each training"},
    "--text": {"help": "pretraining text (the demo's)"},
    "--option": {"action": "append", "default": [], "help": "option of the stage, e.g. --option=--data.limit=64"},
}
main = Command("benchmarks.ptx_sweep", __doc__, measure, OPTIONS)

if __name__ == "__main__":
    raise SystemExit(main())
