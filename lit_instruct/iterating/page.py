"""rounds.html: what the rounds came to, as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_instruct.evaluation.charts import BASE, BEST, INK, MUTED, PPO, SFT, Series, line_chart
from lit_instruct.evaluation.measures import LABELS, labels_of
from lit_instruct.evaluation.page import render
from lit_instruct.files import write_text
from lit_instruct.iterating.options import IterateOptions
from lit_instruct.iterating.record import FILE, flat_options, read_record

COLORS = (BASE, BEST, PPO, SFT, MUTED)
CHARTS = ("labeler", "kl", "length", "distinct_2")
ROWS = ("labeler", "second_labeler", "reward", "kl", "length", "distinct_2", "eos_share")


def write_page(options: IterateOptions, record: Mapping[str, Any]) -> Path:
    """Writes rounds.html beside rounds.json and returns it.

    Args:
        options: of the loop.
        record: content of rounds.json.

    Raises:
        UserError: the rounds that they are compared with cannot be read.
    """
    path = Path(options.run) / "rounds.html"
    compared = read_record(Path(options.compare) / FILE) if options.compare is not None else None
    write_text(path, page_of(path.parent.name, record, compared, options.compare), "--run")
    return path


def page_of(title: str, record: Mapping[str, Any], compared: Mapping[str, Any] | None, name: str | None) -> str:
    """Returns the page as HTML.

    Args:
        title: name of the loop.
        record: content of rounds.json.
        compared: that of other rounds; None without any.
        name: their folder.
    """
    rounds = record["rounds"]
    return render(
        "rounds.html.jinja",
        Path(__file__).parent,
        title=title,
        record=record,
        rounds=rounds,
        warnings=[warning for one in rounds for warning in one["warnings"]],
        measures={name: label for name, label in labels_of(rounds[-1]["judge"]).items() if name in ROWS},
        charts=[(_label(rounds, measure), chart) for measure in CHARTS if (chart := by_round(rounds, measure))],
        matrix=record["matrix"],
        frontier=frontier_chart(rounds, compared["rounds"] if compared else [], name),
        score=score_name(rounds),
        compared=name,
        options=flat_options(record["made_from"]["options"]),
    )


def by_round(rounds: Sequence[Mapping[str, Any]], measure: str) -> Any:
    """Returns a chart of a measure of each round's policy, with that of the SFT model dashed; None if there is none."""
    known = [one for one in rounds if measure in one["policy"]]
    numbers = [float(one["round"]) for one in known]
    series = [Series("policy", PPO, numbers, [one["policy"][measure]["mean"] for one in known])]
    sft = [one for one in known if measure in one["sft"]]
    series.append(Series("SFT", SFT, [float(o["round"]) for o in sft], [o["sft"][measure]["mean"] for o in sft], True))
    return line_chart(f"rounds-{measure}", f"{_label(rounds, measure)} by round", "round", series, whole_x=True)


def frontier_chart(rounds: Sequence[Mapping[str, Any]], compared: Sequence[Mapping[str, Any]], name: str | None) -> Any:
    """Returns a chart of PPO's validations, score against KL: a line for each round, those compared with dashed."""
    series = [
        Series(f"round {one['round']}", COLORS[i % len(COLORS)], one["frontier"]["kl"], one["frontier"]["value"])
        for i, one in enumerate(rounds)
    ]
    label = Path(name).name if name is not None else ""
    series += [
        Series(
            label if len(compared) == 1 else f"{label} {one['round']}",
            INK,
            one["frontier"]["kl"],
            one["frontier"]["value"],
            True,
        )
        for one in compared
        if one["frontier"]["score"] == rounds[-1]["frontier"]["score"]
    ]
    return line_chart("rounds-frontier", "Score against KL to SFT", "KL to the start of PPO, nats per response", series)


def score_name(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Returns whose score the validations of PPO have."""
    return LABELS[rounds[-1]["frontier"]["score"]]


def _label(rounds: Sequence[Mapping[str, Any]], measure: str) -> str:
    return labels_of(rounds[-1]["judge"])[measure]
