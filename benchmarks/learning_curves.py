"""Learning curves of PPO: labeler score against KL and against wall time, ours and TRL 1.12's, over several seeds.

`make sft rm` first: both sides start from that run's SFT and reward model. `python -m benchmarks.learning_curves`
trains each side with each seed, writes benchmarks/results/learning-curves/SIDE-SEED.json when such a run is done, and
after each of them learning-curves.json and learning-curves.png again. Runs that exist with the same settings are not
repeated, so an interrupted measurement resumes.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

from benchmarks import RESULTS
from benchmarks.harness import Command, Found, run_side, say, write_results
from benchmarks.learning_curves_work import SIDES, WINDOW, Curve, Run, Settings, compared, curve_of, settings_of

OUT = "learning-curves"
FINAL = ("labeler", "lowest", "highest", "kl", "reward")
SAME = (
    "SFT model, reward model and its bias; prompts of each iteration; batch, response length, learning rate and "
    "warmup, AdamW's betas, KL coefficient and estimator, clip ranges, penalty for a missing EOS, inner epochs, "
    "minibatches and with them optimizer steps; the value function starts from the reward model with a head of zeros; "
    "LoRA of one rank. Score: the labeler (tone by VADER) on the sampled responses of each iteration, judged by the "
    "same code; KL: sum over a response of log-probability differences, nats. Ours runs for more iterations, into "
    f"the time that the goals give. Curves are means of the last {WINDOW} iterations, bands the lowest and highest seed"
)
WAYS = {
    "ours": "PPOModule with LoRA on all layers; the SFT model is an adapter; gradients clipped to norm 1",
    "ours_top_third": "the same with LoRA on the uppermost third of the layers",
    "trl": "PPOTrainer on the merged models with LoRA on all layers and its accumulation set so that minibatches are "
    "optimizer steps; its value model is trained whole, in float32, the head with our learning rate and the rest with "
    "its own; it does not clip gradients",
}


def measure(options: Namespace) -> Found:
    """Makes the missing runs, and writes the curves again after each run."""
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    out = options.out or f"{OUT}.json"
    runs: list[Run] = []
    for seed in options.seeds:
        for side in options.sides:
            path = Path(options.folder) / f"{side}-{seed}.json"
            own = settings_of(side, settings)
            run = earlier(path, own)
            if run is None:
                say(f"{side}, seed {seed}: {own.iterations} iterations")
                work = {"side": side, "seed": seed, "run": options.run, "settings": own}
                run = run_side("benchmarks.learning_curves_sides", "train", work)
                write_results(path, {"settings": asdict(own), **run})
            last = run["iterations"][-1]
            say(f"{side}, seed {seed}: labeler {last['labeler']:+.2f}, KL {last['kl']:.1f}, {last['elapsed']:.0f} s")
            runs.append(run)
            found = summary(settings, runs)
            draw(found.results["curves"], write_results(out, found.results).with_suffix(".png"))
    return found


def earlier(path: Path, settings: Settings) -> Run | None:
    """Returns an earlier run with these settings; None if there is none."""
    run: Run | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return run if run is not None and run["settings"] == asdict(settings) else None


def summary(settings: Settings, runs: Sequence[Run]) -> Found:
    """Returns the curves of the runs so far, and their comparison."""
    of_side = {side: [run for run in runs if run["side"] == side] for side in SIDES}
    curves = {side: curve_of(found) for side, found in of_side.items() if found}
    results = {
        "same": SAME,
        "ways": {side: WAYS[side] for side in curves},
        "trl_side_versions": next((run["versions"] for run in of_side["trl"]), None),
        "settings": asdict(settings),
        "iterations": {side: settings_of(side, settings).iterations for side in curves},
        "seeds": {side: [run["seed"] for run in of_side[side]] for side in curves},
        "seconds": {side: round(curve["elapsed"][-1], 1) for side, curve in curves.items()},
        "peak_memory_gb": {side: max(run["peak_memory_gb"] for run in of_side[side]) for side in curves},
        "final": {side: {name: curve[name][-1] for name in FINAL} for side, curve in curves.items()},
        "compared": compared(curves),
        "curves": curves,
    }
    return Found(results, f"{OUT}.json", (OUT, f"{OUT}-goals"), chart=partial(draw, curves))


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """Draws the labeler score of each side against KL and against wall time."""
    from benchmarks.plots import COLORS, panels, save

    figure, charts = panels(2)
    named = (("kl", "KL to the SFT model, nats per response", 1), ("elapsed", "wall time, minutes", 60))
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


OPTIONS = {
    "--run": {"default": "runs/demo", "help": "folder with the stages sft and rm of the demo"},
    "--sides": {"nargs": "+", "choices": tuple(SIDES), "default": tuple(SIDES)},
    "--seeds": {"type": int, "nargs": "+", "default": (0, 1, 2)},
    "--folder": {"default": str(RESULTS / OUT), "help": "folder for the results of each run"},
} | {
    f"--{field.name}": {"type": type(field.default), "default": field.default, "help": "used in every run"}
    for field in fields(Settings)
}
main = Command("benchmarks.learning_curves", __doc__, measure, OPTIONS)

if __name__ == "__main__":
    raise SystemExit(main())
