"""The tables of the benchmarks, for the terminal and, filled from benchmarks/results/, for benchmarks/README.md.

`python -m benchmarks.fill_tables` fills the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS

README = Path(__file__).parent / "README.md"
NOTHING = "(no result yet)"
OWN_GOAL = "goal (the project's own target, set before measuring)"
"""Head of a column of goals: they were in the benchmarks' code before the first results."""
CURVE_GOAL = (
    "goal (time: the project's own target, set before measuring; KL: TRL 1.12's at its final score, measured by the "
    "same command)"
)
MEMORY_GOAL = "at most TRL's peak, the project's own target"
PARTS = ("rollout", "scoring", "update")
Rows = list[Sequence[object]]
"""The first row is the table's head."""


def markdown(rows: Rows) -> str:
    """Returns a Markdown table."""
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def replace_tables(text: str, table_of: Callable[[str], str]) -> str:
    """Returns a page whose tables, between `<!-- table NAME -->` and `<!-- end table -->`, are `table_of(NAME)`."""

    def fill(found: re.Match[str]) -> str:
        return f"{found[1]}\n{table_of(found[2])}\n{found[3]}"

    return re.sub(r"(<!-- table ([\w-]+) -->)\n.*?\n(<!-- end table -->)", fill, text, flags=re.DOTALL)


def filled(text: str, results: Path = RESULTS) -> str:
    """Returns the README with tables made from the JSON in `results`; a table without its file says so."""
    return replace_tables(text, lambda name: table(name, results))


def table(name: str, results: Path = RESULTS) -> str:
    """Returns one of TABLES made from the JSON in `results`, with the machine below it and its chart above it."""
    file, rows_of, part = TABLES[name]
    path = results / file
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found = content.get(part) if part else content
    if not found:
        return NOTHING
    where = found.get("environment", content["environment"])
    parts = [markdown(rows_of(found)), origin(where, content.get("trl_side_versions"))]
    if name in CHARTS and (results / f"{name}.png").is_file():
        parts.insert(0, f"![{CHARTS[name]}](results/{name}.png)")
    return "\n\n".join(parts)


def show(names: Iterable[str], found: Mapping[str, Any]) -> None:
    """Prints TABLES of results that were just measured."""
    from rich.console import Console
    from rich.table import Table

    for name in names:
        head, *rows = TABLES[name][1](found)
        shown = Table(*map(str, head), title=name)
        for row in rows:
            shown.add_row(*map(str, row))
        Console().print(shown)


def origin(environment: Mapping[str, Any], trl_side: Mapping[str, str] | None = None) -> str:
    """Returns one line about machine, versions and date."""
    machine = environment["machine"]
    where = machine.get("gpu") or f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB"
    other = f"; TRL's side: {_named(trl_side)}" if trl_side else ""
    return f"{where}; {_named(environment['versions'])}{other}; {environment['date']}."


def _named(versions: Mapping[str, str]) -> str:
    shown = ("torch", "transformers", "trl", "peft")
    return ", ".join(f"{name} {versions[name]}" for name in shown if name in versions)


def _sft(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("rows are", "seconds per step, ours", "TRL", "ratio", OWN_GOAL, "reached", "peak MB, ours", "TRL")]
    for name, case in found["variants"].items():
        seconds, peak = case["seconds_per_step"], case["peak_mb"]
        goal = (case["ratio"], f"<= {case['goal']}", _yes(case["reached"]))
        rows.append((name, seconds["ours"], seconds["trl"], *goal, peak["ours"], peak["trl"]))
    return rows


def _rm_speed(found: Mapping[str, Any]) -> Rows:
    head = ("case", "comparisons/s, ours", "TRL", "ratio", OWN_GOAL, "reached", "peak MB, ours", "TRL", MEMORY_GOAL)
    rows: Rows = [head]
    for case in found["cases"]:
        rate, peak, goals = case["pairs_per_second"], case["peak_mb"], case["goals"]
        speed = (case["ratio"], f">= {goals['ratio']['goal']}", _yes(goals["ratio"]["reached"]))
        memory = (peak["ours"], peak["trl"], _yes(goals["memory_ratio"]["reached"]))
        rows.append((case["case"], rate["ours"], rate["trl"], *speed, *memory))
    return rows


def _rm_quality(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("epoch", "loss, ours", "TRL", "pair accuracy, ours", "TRL", "seconds trained, ours", "TRL")]
    epochs = zip(found["ours"]["epochs"], found["trl"]["epochs"], strict=True)
    for number, (one, other) in enumerate(epochs):
        pairs = ((one[name], other[name]) for name in ("loss", "pair_accuracy", "trained_s"))
        rows.append((number, *(cell for pair in pairs for cell in pair)))
    return rows


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
    rows: Rows = [("way", "tokens/s", "seconds")]
    for name, rate in sorted(found["tokens_per_second"].items(), key=lambda item: -item[1]):
        rows.append((found["seconds"][name]["way"], rate, found["seconds"][name]["median_s"]))
    return rows


def _decode_goals(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("compared", "found", OWN_GOAL, "reached")]
    for name, goal in found["goals"].items():
        rows.append((name.replace("_", " "), found["compared"][name], f">= {goal['goal']}", _yes(goal["reached"])))
    return rows


def _ppo(found: Mapping[str, Any]) -> Rows:
    head = ("model, workload", "side", "precision, micro-batch", "s/iteration", "rollout, scoring, update", "peak GB")
    rows: Rows = [(*head, "x TRL", "scoring, update of the matmul peak")]
    for where, case in _ppo_cases(found):
        for side, figures in case["sides"].items():
            compared, peak = case["compared"].get(side, {}), figures.get("of_peak")
            shares = f"{peak['scoring']:.0%}, {peak['update']:.0%}" if peak else ""
            setting = f"{figures['precision']}, {figures['micro_batch_size']}"
            rows.append((where, side, setting, *_seconds_and_peak(figures), compared.get("ratio", ""), shares))
    return rows


def _ppo_goals(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("model, workload", "side", "what", "found", OWN_GOAL, "reached")]
    names = {"ratio": "x TRL's episodes/s", "memory_ratio": "of TRL's peak memory"}
    names |= {part: f"{part}, of the matmul peak" for part in ("update", "scoring")}
    for where, case in _ppo_cases(found):
        for side, compared in case["compared"].items():
            measured = case["sides"][side]["of_peak"] | compared
            for name, goal in compared["goals"].items():
                sign = "<=" if name == "memory_ratio" else ">="
                asked = (f"{sign} {goal['goal']}", _yes(goal["reached"]))
                rows.append((where, side, names[name], measured[name], *asked))
    return rows


def _ppo_throughput(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("model, workload", "side", "response tokens/s", "model-FLOPs utilisation", "matmul peak, GFLOP/s")]
    for where, case in _ppo_cases(found):
        for side, figures in case["sides"].items():
            if "of_peak" in figures:
                utilisation = f"{figures['of_peak']['iteration']:.0%}"
                rows.append((where, side, figures["tokens_per_second"], utilisation, figures["matmul_peak_gflops"]))
    return rows


def _ppo_value(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("workload, side", "value function", "s/iteration", "rollout, scoring, update", "peak GB")]
    for case, kinds in found["cases"].items():
        for kind, figures in kinds.items():
            rows.append((case, kind, *_seconds_and_peak(figures)))
    return rows


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
    rows: Rows = [("side", "at TRL's final score", "found", CURVE_GOAL, "reached")]
    names = {"time_share": "share of TRL's time", "kl": "KL"}
    for side, goals in found["compared"].get("goals", {}).items():
        for name, goal in goals.items():
            rows.append((side, names[name], goal["found"], f"<= {goal['goal']}", _yes(goal["reached"])))
    return rows


def _ptx(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("ptx_coef", *(name.replace("_", " ") for name in found["measures"]), "s/iteration")]
    before = found["runs"][0]["before"]
    rows.append(("before", *(f"{before[name]:.3f}" for name in found["measures"]), ""))
    for run in found["runs"]:
        cells = (f"{run['after'][name]:.3f}" for name in found["measures"])
        rows.append((f"{run['ptx_coef']:g}", *cells, f"{run['seconds_per_iteration']:.1f}"))
    return rows


def _scaling(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("along", "at", "episodes/s", "response tokens/s", "peak GB")]
    for axis, points in found["curves"].items():
        for point in points:
            figures = (point[name] for name in ("episodes_per_second", "tokens_per_second", "peak_gb"))
            rows.append((axis.replace("_", " "), point[axis], *figures))
    return rows


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


def _ppo_cases(found: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for model, cases in found["models"].items():
        for workload, case in cases.items():
            yield f"{model}, {workload}", case


def _seconds_and_peak(figures: Mapping[str, Any]) -> tuple[str, str, float]:
    parts = ", ".join(f"{figures['parts'][part]:.1f}" for part in PARTS)
    return f"{figures['seconds']:.2f}", parts, figures["peak_gb"]


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
    "plan": ("plan.json", _plan, None),
}
"""Name -> file of the results, function that makes the rows, and the part of the file that it reads."""
CHARTS = {
    "learning-curves": "labeler score against KL and against wall time",
    "ptx-sweep": "held-out pretraining loss, reward and labeler score against ptx_coef",
    "scaling": "episodes per second and peak memory against batch, response length and model size",
}
"""Name of a table -> what the chart beside its results shows."""


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
