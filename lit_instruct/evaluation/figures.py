"""All figures of the report and the samples that it shows, from the measurements on each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_instruct.evaluation import measures
from lit_instruct.evaluation.measures import rounded
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.evaluation.systems import System

if TYPE_CHECKING:
    from lit_instruct.prompting import Prompt

SHOWN_SAMPLES = 9
LEAST_VARIETY = 0.85
"""Lowest distinct-2 of PPO over SFT's without a warning; runs of the demo have 0.9 and more if they answer the prompts,
and 0.5 to 0.8 if one sentence answers most of them (recipes/README.md)."""


def figures_of(options: EvalOptions, systems: list[System], cases: list[str]) -> dict[str, Any]:
    """Returns all figures of the report, overall and by use case."""
    everyone = list(range(len(cases)))
    by_case = {case: [i for i in everyone if cases[i] == case] for case in sorted(set(cases))}
    figures = _summary(systems, everyone, options.seed)
    figures["distinct_2"] = _distinct(systems, options.seed)
    within = {s.name: measures.mean_distinct_n([r.text for r in s.responses]) for s in systems}
    figures["distinct_2_within_response"] = within
    figures["by_use_case"] = {case: _summary(systems, index, options.seed) for case, index in by_case.items()}
    return figures


def _summary(systems: list[System], index: list[int], seed: int) -> dict[str, Any]:
    """Measure -> system -> interval over the prompts in `index`, with the paired difference of PPO to SFT."""
    values = {s.name: {m: [v[i] for i in index] for m, v in s.per_prompt().items()} for s in systems}
    summary: dict[str, Any] = {"prompts": len(index)}
    for measure in values["sft"]:
        summary[measure] = {name: rounded(measures.bootstrap(v[measure], seed)) for name, v in values.items()}
        difference = measures.paired_difference(values["ppo"][measure], values["sft"][measure], seed)
        summary[measure]["ppo_minus_sft"] = rounded(difference)
    won = measures.wins(values["ppo"]["labeler"], values["sft"]["labeler"])
    summary["win_rate"] = {"ppo_vs_sft": rounded(measures.bootstrap(won, seed))}
    return summary


def _distinct(systems: list[System], seed: int) -> dict[str, Any]:
    texts = {system.name: [response.text for response in system.responses] for system in systems}
    distinct: dict[str, Any] = {n: rounded(measures.distinct_2_interval(t, seed)) for n, t in texts.items()}
    sft = distinct["sft"]["mean"]
    distinct["ppo_over_sft"] = distinct["ppo"]["mean"] / sft if sft else None
    return distinct


def sameness(distinct: dict[str, Any]) -> list[str]:
    """Returns a warning if PPO gives similar responses to different prompts, a sign of reward exploitation.

    Args:
        distinct: the report's distinct-2 of each system, with the ratio `ppo_over_sft` (None if SFT has no bigrams).
    """
    ratio = distinct["ppo_over_sft"]
    if ratio is None or ratio >= LEAST_VARIETY:
        return []
    return [
        f"ppo gives similar responses to different prompts: its distinct-2 is {100 * ratio:.0f} % of sft's. A higher "
        "score may come from one sentence that the reward model likes; inspect the samples, raise --model.kl.coef or "
        "reduce --model.iterations"
    ]


def samples_of(systems: list[System], prompts: list[Prompt], cases: list[str]) -> list[dict[str, Any]]:
    """Returns every prompt with each system's response and scores: the rows of samples.jsonl."""
    by_name = {system.name: system for system in systems}
    samples = []
    for i, (prompt, case) in enumerate(zip(prompts, cases, strict=True)):
        responses = {
            system.name: {
                "text": system.responses[i].text,
                "ended": bool(system.responses[i].ended),
                "tokens": len(system.responses[i].ids),
                "labeler": round(system.labeler[i], 4),
                "second_labeler": round(system.second_labeler[i], 4),
                "reward": round(system.reward[i], 4),
            }
            for system in systems
        }
        difference = round(by_name["ppo"].labeler[i] - by_name["sft"].labeler[i], 4)
        samples.append({"prompt": prompt, "use_case": case, "ppo_minus_sft": difference, "responses": responses})
    return samples


def choose_samples(samples: Sequence[dict[str, Any]], n: int = SHOWN_SAMPLES) -> list[dict[str, Any]]:
    """Returns n samples evenly spaced over the ranking by PPO's labeler score minus SFT's, best to worst.

    So gains and losses are shown in the proportion in which they occur. Ties keep the order of the prompts.
    """
    ranked = sorted(samples, key=lambda sample: -sample["ppo_minus_sft"])
    if len(ranked) <= n:
        return ranked
    return [ranked[round(i * (len(ranked) - 1) / (n - 1))] for i in range(n)]
