"""What a judge says about itself: how far it agrees with itself when the order of the responses is swapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lit_instruct.files import json_text, write_text
from lit_instruct.labeling.agreement import interval
from lit_instruct.rollouts.labelers import Labeler


def report_of(labeler: Labeler) -> dict[str, Any] | None:
    """Returns figures on a judge, for JSON; None for any other labeler.

    `self_agreement` is the share of pairs of responses that the judge orders alike in both orders in which it saw them
    (one that it ties only once counts 1/2), with a 95 % bootstrap interval over prompts. `first_shown_wins` is the
    share of decided comparisons that the response shown earlier won: 1/2 without position bias.
    """
    judge = labeler.judge
    if judge is None:
        return None
    options, tally = judge.options, judge.tally
    return {
        "labeler": labeler.name,
        "model": options.model,
        "by": options.by,
        "swap": options.swap,
        "flip": labeler.noise.flip,
        "seed": labeler.noise.seed,
        "questions": tally.questions,
        "from_cache": tally.from_cache,
        "calls": judge.client.calls,
        "left_out": tally.left_out,
        "self_agreement": interval(tally.swapped, seed=0),
        "first_shown_wins": round(tally.first_wins / tally.decided, 4) if tally.decided else None,
        "decided": tally.decided,
    }


def sentences(report: dict[str, Any]) -> list[str]:
    """Returns a judge's report in words."""
    cached = f"{report['from_cache']} of them answered from the cache"
    told = [f"{report['model']}: {report['questions']} questions, {cached}; {report['calls']} calls"]
    if (found := report["self_agreement"]) is not None:
        told.append(
            f"it agrees with itself on {100 * found['share']:.1f} % of {found['pairs']} pairs when their order is "
            f"swapped ({100 * found['ci_low']:.1f} to {100 * found['ci_high']:.1f} %); the response shown first wins "
            f"{100 * report['first_shown_wins']:.1f} % of the decided comparisons"
        )
    return told


def write_report(out: Path, labeler: Labeler) -> Path | None:
    """Writes a judge's report beside the rows that it ranked and prints it; nothing for any other labeler.

    Args:
        out: file of the rows, such as ranked.jsonl; the report is ranked.labeler.json.
        labeler: that ranked them.

    Raises:
        UserError: it cannot be written.
    """
    report = report_of(labeler)
    if report is None:
        return None
    path = out.with_name(f"{out.stem}.labeler.json")
    write_text(path, json_text(report), "--out")
    print(*sentences(report), sep="\n")
    return path
