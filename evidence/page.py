"""The pages of the findings, evidence.html and docs/evidence.md, from the files of results alone.

`python -m evidence.page` writes them without measuring.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from evidence import RESULTS, ROOT, findings, rounds_table
from evidence.charts import as_file, chart
from evidence.result import ANSWERS, read_results
from lit_instruct.evaluation.page import number, render
from lit_instruct.files import write_text
from lit_instruct.progress import in_words

DOCS = ROOT / "docs/evidence.md"
NOT_REACHED = "not reached"


class Shown(NamedTuple):
    """A finding on the page."""

    question: str
    result: dict[str, Any] | None
    """The content of its file; None if there is none."""

    @property
    def time(self) -> str:
        """How long it took."""
        return in_words(self.result["seconds"]) if self.result else ""

    @property
    def figure(self) -> str:
        """The figure with its interval; empty if there is none."""
        return interval(self.result) if self.result else ""

    @property
    def machine(self) -> str:
        """Where it was measured."""
        if self.result is None:
            return ""
        machine = self.result["machine"]
        where = f"{machine['system']} {machine['architecture']}, {machine['cpu_cores']} cores"
        return f"{where}, {machine['accelerator']}" if machine.get("accelerator") else where

    @property
    def columns(self) -> list[str]:
        """Of its table."""
        return list(dict.fromkeys(key for row in self.result["rows"] for key in row)) if self.result else []

    @property
    def charts(self) -> list[Markup]:
        """Its charts as <svg> elements."""
        if self.result is None:
            return []
        return [chart(plot, f"{self.result['finding']}-{i + 1}") for i, plot in enumerate(self.result["plots"])]


def write_pages(results: Path, runs: Path) -> list[Path]:
    """Writes evidence.html into the folder of runs, and docs/evidence.md with its charts if the results are committed.

    Args:
        results: folder of results.
        runs: folder of runs.

    Raises:
        UserError: a file is not a result, or a page cannot be written.
    """
    shown = shown_findings(results)
    page = runs / "evidence.html"
    runs.mkdir(parents=True, exist_ok=True)
    write_text(page, html(shown), "--runs")
    if results.resolve() != RESULTS.resolve():
        return [page]
    for name, one in shown.items():
        charts = {results / f"{name}-{i + 1}.svg": as_file(svg) for i, svg in enumerate(one.charts)}
        for old in set(results.glob(f"{name}-*.svg")) - charts.keys():
            old.unlink()
        for path, text in charts.items():
            write_text(path, text, "--results")
    write_text(DOCS, filled(DOCS.read_text(encoding="utf-8"), shown), "--results")
    return [page, DOCS]


def shown_findings(results: Path) -> dict[str, Shown]:
    """Returns the findings that there are, and others that the folder has results of.

    Raises:
        UserError: a file is not a result.
    """
    found = read_results(results)
    names = [*findings.names(), *sorted(found.keys() - set(findings.names()))]
    return {
        name: Shown("", found[name]) if name in found else Shown(findings.module_of(name).QUESTION, None)
        for name in names
    }


def html(shown: Mapping[str, Shown]) -> str:
    """Returns the page."""
    rounds = rounds_table.rounds_results()
    return render(
        "evidence.html.jinja",
        Path(__file__).parent,
        findings=shown,
        answers=ANSWERS,
        interval=interval,
        cell=cell,
        rounds=rounds,
        rounds_columns=rounds_table.COLUMNS,
        rounds_cells=rounds_table.cells,
        rounds_question=rounds_table.QUESTION,
        not_measured=rounds_table.NOT_MEASURED,
    )


def filled(text: str, shown: Mapping[str, Shown]) -> str:
    """Returns a Markdown page with the findings between `<!-- findings -->` and `<!-- end findings -->`."""
    made = "\n".join([_summary(shown), *(_section(name, one) for name, one in shown.items() if one.result)])
    made += "\n" + rounds_table.markdown(rounds_table.rounds_results())
    return re.sub(
        r"(<!-- findings -->\n).*?(<!-- end findings -->)",
        lambda found: f"{found[1]}{made}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )


def interval(figures: Mapping[str, Any]) -> str:
    """Returns figure, ci_low and ci_high of a result or a claim as text; empty if they are null."""
    values = [figures.get(key) for key in ("figure", "ci_low", "ci_high")]
    if values[0] is None:
        return ""
    digits = 1 if max(abs(value) for value in values if value is not None) >= 10 else 2
    figure, low, high = (number(value, digits) for value in values)
    return f"{figure} ({low} to {high})"


def cell(value: Any) -> str:
    """Returns a cell of a table as text."""
    return number(value) if isinstance(value, float) else str(value)


def _summary(shown: Mapping[str, Shown]) -> str:
    rows = [
        [f"[{name}](#{name})" if one.result else name, *map(_plain, _answer(one)), one.figure, one.time]
        for name, one in shown.items()
    ]
    return _table([["finding", "question", "", "figure (95 % interval)", "time"], *rows])


def _answer(one: Shown) -> list[str]:
    if one.result is None:
        return [one.question, NOT_REACHED]
    return [one.result["question"], ANSWERS[one.result["holds"]]]


def _section(name: str, one: Shown) -> str:
    result = one.result
    assert result is not None
    said = ANSWERS[result["holds"]].capitalize()
    lines = [f"\n## {name}\n\n**{_plain(result['question'])}** {said}. {_plain(result['verdict'])}\n"]
    lines += [f"- figure: {one.figure} {_plain(result['unit'])}"] if one.figure else []
    lines += [f"- in the paper: {_plain(result['paper'])}", f"- done here: {_plain(result['done'])}"]
    lines += [f"- seeds: {', '.join(map(str, result['seeds']))}"]
    lines += [f"- measured: {one.time} on {one.machine}, {result['date'][:10]}"]
    if result["claims"]:
        rows = [[_plain(claim["claim"]), ANSWERS[claim["holds"]], interval(claim)] for claim in result["claims"]]
        lines += ["", _table([["claim", "", "figure"], *rows])]
    for i, plot in enumerate(result["plots"]):
        lines += ["", f"![{_plain(plot['title'])}](../recipes/evidence/results/{name}-{i + 1}.svg)"]
    if one.columns:
        rows = [[_plain(cell(row.get(column, ""))) for column in one.columns] for row in result["rows"]]
        lines += ["", _table([[_plain(column) for column in one.columns], *rows])]
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> str:
    head, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def _plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line."""
    return re.sub(r"([|<*_`])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    for path in write_pages(RESULTS, ROOT / "runs/evidence"):
        print(path)
