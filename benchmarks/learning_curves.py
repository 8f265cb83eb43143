"""Learning curves of PPO: labeler score against KL and against wall time, ours and TRL 1.12's, over several seeds.

`make sft rm` first: both sides start from that run's SFT and reward model. `python -m benchmarks.learning_curves`
trains each side with each seed, writes benchmarks/results/learning-curves/SIDE-SEED.json when such a run is done, and
after each of them learning-curves.json and learning-curves.png anew. Runs that are there with the same settings are
not repeated, so a stopped measurement goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.environment import RESULTS, write_results
from benchmarks.learning_curves_work import SIDES, WINDOW, Curve, Run, Settings, compared, curve_of, settings_of
from benchmarks.sides import run_side

MODULE = "benchmarks.learning_curves"
OUT = "learning-curves"
SAME = (
    "SFT model, reward model and its bias; prompts of each iteration; batch, response length, learning rate and "
    "warmup, AdamW's betas, KL coefficient and estimator, clip ranges, penalty for a missing EOS, inner epochs, "
    "minibatches and with them optimizer steps; the value function starts from the reward model with a head of zeros; "
    "LoRA of one rank. Score: the labeler (tone by VADER) on the sampled responses of each iteration, judged by the "
    "same code; KL: sum over a response of log-probability differences, nats. Ours goes on for more iterations, into "
    f"the time that the goals give. Curves are means of the last {WINDOW} iterations, bands the lowest and highest seed"
)
WAYS = {
    "ours": "PPOModule with LoRA on all layers; the SFT model is an adapter; gradients clipped to norm 1",
    "ours_top_third": "the same with LoRA on the uppermost third of the layers",
    "trl": "PPOTrainer on the merged models with LoRA on all layers and its accumulation set so that minibatches are "
    "optimizer steps; its value model is trained whole, in float32, the head with our learning rate and the rest with "
    "its own; it does not clip gradients",
}


def measure(options: argparse.Namespace, settings: Settings, console: Console) -> list[Run]:
    """Makes the runs that are missing and returns all that were asked for.

    Args:
        options: of the command line.
        settings: hyperparameters.
        console: to tell what is going on.
    """
    runs = []
    for seed in options.seeds:
        for side in options.sides:
            path = Path(options.folder) / f"{side}-{seed}.json"
            its_own = settings_of(side, settings)
            run = earlier(path, its_own)
            if run is None:
                console.print(f"{side}, seed {seed}: {its_own.iterations} iterations")
                work = {"side": side, "seed": seed, "run": options.run, "settings": asdict(its_own)}
                run = run_side(MODULE, "train", work)
                write_results(path, {"settings": asdict(its_own), **run})
            last = run["iterations"][-1]
            console.print(
                f"{side}, seed {seed}: labeler {last['labeler']:+.2f}, KL {last['kl']:.1f}, {last['elapsed']:.0f} s"
            )
            runs.append(run)
            write_summary(options, settings, runs)
    return runs


def earlier(path: Path, settings: Settings) -> Run | None:
    """Returns a run that is there with these settings, None where it has to be made."""
    if not path.is_file():
        return None
    run: Run = json.loads(path.read_text(encoding="utf-8"))
    return run if run["settings"] == asdict(settings) else None


def write_summary(options: argparse.Namespace, settings: Settings, runs: Sequence[Run]) -> dict[str, Any]:
    """Writes learning-curves.json and the chart of the runs so far, and returns the former."""
    of_side = {side: [run for run in runs if run["side"] == side] for side in SIDES}
    curves = {side: curve_of(found) for side, found in of_side.items() if found}
    summary = {
        "same": SAME,
        "ways": {side: WAYS[side] for side in curves},
        "trl_side_versions": next((run["versions"] for run in of_side["trl"]), None),
        "settings": asdict(settings),
        "iterations": {side: settings_of(side, settings).iterations for side in curves},
        "seeds": {side: [run["seed"] for run in of_side[side]] for side in curves},
        "seconds": {side: round(curve["elapsed"][-1], 1) for side, curve in curves.items()},
        "peak_memory_gb": {side: max(run["peak_memory_gb"] for run in of_side[side]) for side in curves},
        "final": {side: final(curve) for side, curve in curves.items()},
        "compared": compared(curves),
        "curves": curves,
    }
    write_results(options.out, summary)
    draw(curves, Path(options.out).with_suffix(".png"))
    return summary


def final(curve: Curve) -> dict[str, float]:
    """Returns where a curve ends."""
    return {name: curve[name][-1] for name in ("labeler", "lowest", "highest", "kl", "reward")}


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Draws the labeler score of each side against KL and against wall time.

    Args:
        curves: side -> `curve_of`.
        path: of the PNG.
    """
    from benchmarks.plots import COLORS, panels, save

    figure, charts = panels(2)
    named = (("kl", "KL to the SFT model, nats a response", 1), ("elapsed", "wall time, minutes", 60))
    for chart, (name, label, unit) in zip(charts, named, strict=True):
        for side, color in zip(SIDES, COLORS, strict=False):
            if side in curves:
                curve = curves[side]
                x = [value / unit for value in curve[name]]
                chart.plot(x, curve["labeler"], color=color, label=SIDES[side])
                chart.fill_between(x, curve["lowest"], curve["highest"], color=color, alpha=0.15, linewidth=0)
        chart.set_xlabel(label)
        chart.set_ylabel("labeler score of the training samples")
    charts[0].legend(loc="lower right")
    save(figure, path)


def table_of(summary: Mapping[str, Any]) -> Table:
    """Returns where the curves end, and when they have TRL's final score."""
    table = Table("side", "seeds", "final labeler", "final KL", "minutes", "TRL's score after", "at KL", title="PPO")
    reached = summary["compared"].get("reached", {})
    for side, end in summary["final"].items():
        point = reached.get(side)
        seeds, minutes = str(len(summary["seeds"][side])), f"{summary['seconds'][side] / 60:.1f}"
        when = [f"{point['seconds'] / 60:.1f} min", str(point["kl"])] if point else ["", ""]
        table.add_row(SIDES[side], seeds, f"{end['labeler']:+.3f}", f"{end['kl']:.2f}", minutes, *when)
    return table


def main(words: list[str] | None = None) -> int:
    """Makes the missing runs, and writes JSON and chart; as a side, prints the run as JSON."""
    options = _parser().parse_args(words)
    if options.side is not None:
        print(json.dumps(_answer(json.loads(options.work))))
        return 0
    console = Console()
    given = {field.name: getattr(options, field.name) for field in fields(Settings)}
    settings = Settings(**given)
    runs = measure(options, settings, console)
    summary = write_summary(options, settings, runs)
    console.print(table_of(summary))
    for side, asked in summary["compared"].get("goals", {}).items():
        for name, goal in asked.items():
            console.print(f"{side}: {name} {goal['found']} (goal {goal['goal']}): {'yes' if goal['reached'] else 'no'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning_curves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", default="runs/demo", help="folder with the stages sft and rm of the demo")
    parser.add_argument("--sides", nargs="+", choices=tuple(SIDES), default=tuple(SIDES))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--folder", default=str(RESULTS / OUT), help="of the single runs")
    parser.add_argument("--out", default=f"{OUT}.json", help="file of the curves; the chart lies beside it")
    for field in fields(Settings):
        kind = int if isinstance(field.default, int) else float
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help="of every run")
    for name in ("side", "work"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    return parser


def _answer(work: dict[str, Any]) -> Run:
    """What a process of its own is there for."""
    from benchmarks import learning_curves_sides as sides

    settings, seed, run = Settings(**work["settings"]), work["seed"], work["run"]
    if work["side"] == "trl":
        return sides.trl(seed, run, settings, sides.best_precision())
    return sides.ours(work["side"], seed, run, settings)


if __name__ == "__main__":
    sys.exit(main())
