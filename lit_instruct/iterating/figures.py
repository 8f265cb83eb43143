"""What a round came to: figures of its report, of its reward model and of PPO's validations, and what got worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lit_instruct.evaluation.charts import read_metrics
from lit_instruct.evaluation.measures import paired_difference, rounded
from lit_instruct.handover import read_stage
from lit_instruct.iterating.matrix import Matrix
from lit_instruct.iterating.rounds import Round

MEASURES = ("labeler", "second_labeler", "reward", "kl", "length", "distinct_2", "eos_share")
LABELER, REWARD = "val/labeler", "val/reward"
"""Scores of PPO's validation: by the labeler where PPO was given one, else by the reward model."""


def figures_of(one: Round, matrix: Matrix, seed: int) -> dict[str, Any]:
    """Returns the figures of a complete round for rounds.json.

    Args:
        one: the round.
        matrix: of all rounds so far.
        seed: of the bootstrap.
    """
    report = json.loads((one.eval / "report.json").read_text(encoding="utf-8"))
    stages = {name: read_stage(one.folder / name) for name in ("rm", "ppo")}
    figures: dict[str, Any] = {
        "round": one.number,
        "judge": report["judge"],
        "comparisons": {part.stem: _count(part) for part in (one.train, one.held_out)},
        "policy": {name: report[name]["ppo"] for name in MEASURES if "ppo" in report.get(name, {})},
        "sft": {name: report[name]["sft"] for name in MEASURES if "sft" in report.get(name, {})},
        "minus_sft": report["labeler"].get("ppo_minus_sft"),
        "prompts": report["prompts"],
        "metrics": {name: stage.metrics for name, stage in stages.items() if stage is not None},
        "newest_policy": {
            "by_the_model_before": matrix[one.number - 1][one.number] if one.number else None,
            "by_its_own_model": matrix[one.number][one.number],
        },
        "frontier": frontier(one.ppo),
        "minus_round_before": _difference(one, seed) if one.number else None,
    }
    figures["warnings"] = warnings(figures)
    return figures


def frontier(ppo: Path) -> dict[str, Any]:
    """Returns the KL and the score of every validation of a PPO stage, and whose score it is.

    Args:
        ppo: the stage's folder.
    """
    curves = read_metrics(ppo / "logs" / "metrics.csv", "ppo/iteration")
    name = LABELER if LABELER in curves else REWARD
    kl = dict(zip(*curves.get("val/kl", ([], [])), strict=True))
    score = dict(zip(*curves.get(name, ([], [])), strict=True))
    at = [iteration for iteration in kl if iteration in score]
    return {
        "score": name.partition("/")[2],
        "kl": [kl[i] for i in at],
        "value": [score[i] for i in at],
        "iteration": at,
    }


def warnings(figures: dict[str, Any]) -> list[str]:
    """Returns a sentence for each thing that a round made worse."""
    found, change = [], figures["minus_round_before"]
    if change is not None and change["mean"] < 0:
        clear = "clearly" if change["ci_high"] < 0 else "but within the noise"
        found.append(
            f"round {figures['round']} scores lower than round {figures['round'] - 1} by the {figures['judge']}: "
            f"{change['mean']:+.2f} ({change['ci_low']:+.2f} to {change['ci_high']:+.2f}), {clear}"
        )
    told = {
        "by_the_model_before": "the reward model of the round before",
        "by_its_own_model": "the reward model of this round",
    }
    for name, model in told.items():
        accuracy = figures["newest_policy"][name]
        if accuracy is not None and accuracy["value"] < 0.5:
            found.append(
                f"round {figures['round']}: {model} orders {accuracy['value']:.0%} of the newest policy's pairs "
                f"as labelled ({accuracy['ci_low']:.0%} to {accuracy['ci_high']:.0%}), which is below chance"
            )
    return found


def _difference(one: Round, seed: int) -> dict[str, Any] | None:
    """The labeler's score of this round's policy minus that of the round before, on the prompts that both answered."""
    before, now = (_scores(other) for other in (Round(one.loop, one.number - 1), one))
    shared = [prompt for prompt in now if prompt in before]
    if not shared:
        return None
    return rounded(paired_difference([now[p] for p in shared], [before[p] for p in shared], seed))


def _scores(one: Round) -> dict[str, float]:
    lines = (one.eval / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {json.dumps(row["prompt"]): row["responses"]["ppo"]["labeler"] for row in rows}


def _count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
