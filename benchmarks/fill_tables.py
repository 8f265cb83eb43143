"""The tables of the benchmarks, for the terminal and, filled from benchmarks/results/, for the pages that show them.

`python -m benchmarks.fill_tables` fills the pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, ROOT, cuda_sim_table, operations_table

PAGES = (ROOT / "benchmarks/README.md", *(ROOT / f"docs/{page}.md" for page in ("gpus", "memory", "rewards")))
NOTHING = "(no result yet)"
OWN_GOAL = "goal (the project's own target, set before measuring)"
"""Head of a column of goals: they were in the benchmarks' code before the first results."""
CURVE_GOAL = (
    "goal (time: the project's own target, set before measuring; KL: TRL 1.12's at its final score, measured by the "
    "same command)"
)
MEMORY_GOAL = "at most TRL's peak, the project's own target"
PARTS = ("rollout", "scoring", "update")
Rows = list[Sequence[object]]  # the first one is the table's head


def markdown(rows: Rows) -> str:
    """Returns a Markdown table."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def filled(text: str, results: Path = RESULTS) -> str:
    """Returns a page with its tables, between `<!-- table NAME -->` and `<!-- end table -->`, made from `results`."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{table(found[2], results)}\n{found[3]}"

    return re.sub(r"(<!-- table ([\w-]+) -->)\n.*?\n(<!-- end table -->)", fill, text, flags=re.DOTALL)


def table(name: str, results: Path = RESULTS) -> str:
    """Returns one of TABLES made from the JSON in `results`, with the machine below it and its chart above it."""
    file, rows_of, part = TABLES[name]
    path = results / file
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = content.get(part) if part else content
    if not found:
        return NOTHING
    parts = [markdown(rows_of(found)), origin({**content, **found}["environment"], content.get("trl_side_versions"))]
    if name in CHARTS and (results / f"{name}.png").is_file():
        parts.insert(0, f"![{CHARTS[name]}](results/{name}.png)")
    return "\n\n".join(parts)


def origin(environment: Mapping[str, Any], trl_side: Mapping[str, str] | None = None) -> str:
    """Returns one line about machine, versions and date."""
    machine = environment["machine"]
    where = machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    other = f"; TRL's side: {_named(trl_side)}" if trl_side else ""
    return f"{where}; {_named(environment['versions'])}{other}; {environment['date']}."


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "transformers", "trl", "peft") if name in versions
    )


def _sft(found: Mapping[str, Any]) -> Rows:
    head = ("rows are", "seconds per step, ours", "TRL", "ratio", OWN_GOAL, "reached", "peak MB, ours", "TRL")
    rows = [
        (name, *_both(case["seconds_per_step"]), case["ratio"], *_asked("<=", case), *_both(case["peak_mb"]))
        for name, case in found["variants"].items()
    ]
    return [head, *rows, *_left_out(found, len(head))]


def _left_out(found: Mapping[str, Any], columns: int) -> Rows:
    return [(f"not run: {name}, {why}", *[""] * (columns - 1)) for name, why in found.get("not_run", {}).items()]


def _rm_speed(found: Mapping[str, Any]) -> Rows:
    head = ("case", "comparisons/s, ours", "TRL", "ratio", OWN_GOAL, "reached", "peak MB, ours", "TRL", MEMORY_GOAL)
    rows: Rows = [head]
    for case in found["cases"]:
        speed = (*_both(case["pairs_per_second"]), case["ratio"], *_asked(">=", case["goals"]["ratio"]))
        rows.append((case["case"], *speed, *_both(case["peak_mb"]), _yes(case["goals"]["memory_ratio"]["reached"])))
    return rows + _left_out(found, len(head))


def _rm_quality(found: Mapping[str, Any]) -> Rows:
    head = ("epoch", "loss, ours", "TRL", "pair accuracy, ours", "TRL", "seconds trained, ours", "TRL")
    epochs = zip(found["ours"]["epochs"], found["trl"]["epochs"], strict=True)
    return [head] + [
        (number, *(side[name] for name in ("loss", "pair_accuracy", "trained_s") for side in both))
        for number, both in enumerate(epochs)
    ]


def _data(found: Mapping[str, Any]) -> Rows:
    sizes = sorted({result["rows"] for result in found["results"]})
    head = [f"{size:,} rows: seconds, peak MB" for size in sizes]
    goal, limits = OWN_GOAL.partition(" ")[2], found["limits"]
    exponent = f"time grows as rows^, goal <= {limits['exponent']} {goal}"
    rows: Rows = [("step", *head, exponent, f"bytes per row, goal <= {limits['bytes_a_row']} {goal}", "with buffers")]
    for step, what in found["steps"].items():
        at = {result["rows"]: result for result in found["results"] if result["step"] == step}
        cells = [f"{at[size]['seconds']:.1f}, {at[size]['peak_bytes'] / 1e6:.0f}" for size in sizes]
        rows.append((what, *cells, *found["growth"][step].values()))
    return rows


def _decode(found: Mapping[str, Any]) -> Rows:
    rates, seconds = sorted(found["tokens_per_second"].items(), key=lambda item: -item[1]), found["seconds"]
    rows = [(seconds[name]["way"], rate, seconds[name]["median_s"]) for name, rate in rates]
    return [("way", "tokens/s", "seconds"), *rows, *_left_out(found["workload"], 3)]


def _decode_goals(found: Mapping[str, Any]) -> Rows:
    return [("compared", "found", OWN_GOAL, "reached")] + [
        (name.replace("_", " "), found["compared"][name], *_asked(">=", goal)) for name, goal in found["goals"].items()
    ]


def _ppo(found: Mapping[str, Any]) -> Rows:
    head = ("model, workload", "side", "precision, micro-batch", "s/iteration", "rollout, scoring, update", "peak GB")
    rows: Rows = [(*head, "x TRL", "scoring, update of the matmul peak")]
    for where, case, side, figures in _ppo_sides(found):
        compared, peak = case["compared"].get(side, {}), figures.get("of_peak")
        shares = f"{peak['scoring']:.0%}, {peak['update']:.0%}" if peak else ""
        setting = f"{figures['precision']}, {figures['micro_batch_size']}"
        rows.append((where, side, setting, *_seconds_and_peak(figures), compared.get("ratio", ""), shares))
    left_out = {name: why for _, case, *_ in _ppo_sides(found) for name, why in case.get("not_run", {}).items()}
    return rows + _left_out({"not_run": left_out}, len(rows[0]))


def _ppo_goals(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("model, workload", "side", "what", "found", OWN_GOAL, "reached")]
    names = {"ratio": "x TRL's episodes/s", "memory_ratio": "of TRL's peak memory"}
    names |= {part: f"{part}, of the matmul peak" for part in ("update", "scoring")}
    for where, case, side, figures in _ppo_sides(found):
        compared = case["compared"].get(side, {})
        for name, goal in compared.get("goals", {}).items():
            measured = (figures["of_peak"] | compared)[name]
            rows.append((where, side, names[name], measured, *_asked("<=" if name == "memory_ratio" else ">=", goal)))
    return rows


def _ppo_throughput(found: Mapping[str, Any]) -> Rows:
    head = ("model, workload", "side", "response tokens/s", "model-FLOPs utilisation", "matmul peak, GFLOP/s")
    return [head] + [
        (where, side, of["tokens_per_second"], f"{of['of_peak']['iteration']:.0%}", of["matmul_peak_gflops"])
        for where, _, side, of in _ppo_sides(found)
        if "of_peak" in of
    ]


def _ppo_value(found: Mapping[str, Any]) -> Rows:
    head = ("workload, side", "value function", "s/iteration", "rollout, scoring, update", "peak GB")
    cases = found["cases"].items()
    return [head] + [(case, kind, *_seconds_and_peak(of)) for case, kinds in cases for kind, of in kinds.items()]


def _curves(found: Mapping[str, Any]) -> Rows:
    head = ("side", "seeds", "final labeler score (lowest to highest seed)", "final KL", "minutes")
    rows: Rows = [(*head, "has TRL's final score after", "at KL")]
    for side, end in found["final"].items():
        point = found["compared"].get("reached", {}).get(side)
        when = (f"{point['seconds'] / 60:.1f} min, iteration {point['iteration']}", point["kl"]) if point else ("", "")
        score = f"{end['labeler']:+.3f} ({end['lowest']:+.3f} to {end['highest']:+.3f})"
        minutes = f"{found['seconds'][side] / 60:.1f}"
        rows.append((side, len(found["seeds"][side]), score, f"{end['kl']:.2f}", minutes, *when))
    return rows


def _curve_goals(found: Mapping[str, Any]) -> Rows:
    names = {"time_share": "share of TRL's time", "kl": "KL"}
    return [("side", "at TRL's final score", "found", CURVE_GOAL, "reached")] + [
        (side, names[name], goal["found"], *_asked("<=", goal))
        for side, goals in found["compared"].get("goals", {}).items()
        for name, goal in goals.items()
    ]


def _ptx(found: Mapping[str, Any]) -> Rows:
    names = found["measures"]
    rows: Rows = [("ptx_coef", *(name.replace("_", " ") for name in names), "s/iteration")]
    rows.append(("before", *(f"{found['runs'][0]['before'][name]:.3f}" for name in names), ""))
    for run in found["runs"]:
        cells = (f"{run['after'][name]:.3f}" for name in names)
        rows.append((f"{run['ptx_coef']:g}", *cells, f"{run['seconds_per_iteration']:.1f}"))
    return rows


def _scaling(found: Mapping[str, Any]) -> Rows:
    names = ("episodes_per_second", "tokens_per_second", "peak_gb")
    return [("along", "at", "episodes/s", "response tokens/s", "peak GB")] + [
        (axis.replace("_", " "), point[axis], *(point[name] for name in names))
        for axis, points in found["curves"].items()
        for point in points
    ]


def _plan(found: Mapping[str, Any]) -> Rows:
    cases = found["cases"]
    rows: Rows = [("case", "stage", *(f"{size}: planned, measured MB" for size in next(iter(cases.values()))["sft"]))]
    for case, stages in cases.items():
        for stage, sizes in stages.items():
            cells = (
                f"{at['planned'] / 1e6:.0f}, {at['measured'] / 1e6:.0f} ({at['planned / measured']:.2f})"
                for at in sizes.values()
            )
            rows.append((case, stage, *cells))
    return rows


def _bits(found: Mapping[str, Any]) -> Rows:
    bases = list(found["found"]["no adapter"])
    rows: Rows = [("adapter", *(f"{what} on {base}" for base in bases for what in ("loss", "KL")))]
    for adapter, on in found["found"].items():
        figures = ((f"{on[base]['loss']:.3f}", f"{on[base]['kl']:.4f}") for base in bases)
        rows.append((adapter, *(figure for pair in figures for figure in pair)))
    return rows


def _labeler(found: Mapping[str, Any]) -> Rows:
    shown = {"helpful, float32": "`helpful`", "tone": "`tone`", "longer": "the longer response"}
    kinds = {"fitted kinds": "all", "generic": "generic praise", "topical_praise": "praise that names the topic"}
    kinds |= {"wrong": "wrong facts", "own_samples": "two samples of the demo's SFT model"}
    rows: Rows = [("picks the right one of, held out", *kinds.values())]
    for judge, name in shown.items():
        cells = [found["shares"][judge]["held out"][kind] for kind in kinds]
        shares = (f"{x['share']:.1%} of {x['pairs']} ({x['ci_low']:.0%} to {x['ci_high']:.0%})" for x in cells)
        rows.append((name, *shares))
    return rows


def _ppo_sides(found: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any], str, Mapping[str, Any]]]:
    """Of each side: model and workload, the workload's results, the side, and its figures."""
    for model, cases in found["models"].items():
        for workload, case in cases.items():
            for side, figures in case["sides"].items():
                yield f"{model}, {workload}", case, side, figures


def _seconds_and_peak(figures: Mapping[str, Any]) -> tuple[str, str, float]:
    parts = ", ".join(f"{figures['parts'][part]:.1f}" for part in PARTS)
    return f"{figures['seconds']:.2f}", parts, figures["peak_gb"]


def _both(figure: Mapping[str, float]) -> tuple[float, float]:
    return figure["ours"], figure["trl"]


def _asked(sign: str, goal: Mapping[str, Any]) -> tuple[str, str]:
    return f"{sign} {goal['goal']}", _yes(goal["reached"])


def _yes(reached: bool) -> str:
    return "yes" if reached else "no"


TABLES: dict[str, tuple[str, Callable[[Mapping[str, Any]], Rows], str | None]] = {
    "sft": ("sft.json", _sft, None),
    "rm-speed": ("rm.json", _rm_speed, "speed"),
    "rm-quality": ("rm.json", _rm_quality, "quality"),
    "data": ("data.json", _data, None),
    "decode": ("decode.json", _decode, None),
    "decode-goals": ("decode.json", _decode_goals, None),
    "ppo": ("ppo.json", _ppo, None),
    "ppo-goals": ("ppo.json", _ppo_goals, None),
    "ppo-value": ("ppo-value.json", _ppo_value, None),
    "ppo-cuda": ("ppo-cuda.json", _ppo, None),
    "ppo-cuda-throughput": ("ppo-cuda.json", _ppo_throughput, None),
    "learning-curves": ("learning-curves.json", _curves, None),
    "learning-curves-goals": ("learning-curves.json", _curve_goals, None),
    "ptx-sweep": ("ptx-sweep.json", _ptx, None),
    "scaling": ("scaling.json", _scaling, None),
    "operations": ("operations.json", operations_table.rows, None),
    "plan": ("plan.json", _plan, None),
    "bits": ("bits.json", _bits, None),
    "cuda-sim": ("cuda-sim.json", cuda_sim_table.rows, None),
    "labeler": ("labeler.json", lambda found: found["table"], None),
    "labeler-short": ("labeler.json", _labeler, None),
}
"""Name -> file of the results, function that makes the rows, and the part of the file that it reads."""
CHARTS = {
    "learning-curves": "labeler score against KL and against wall time",
    "ptx-sweep": "held-out pretraining loss, reward and labeler score against ptx_coef",
    "scaling": "episodes per second and peak memory against batch, response length and model size",
}
"""Name of a table -> what the chart beside its results shows."""


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
