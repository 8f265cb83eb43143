"""All figures of the report and the samples that it shows, from the measurements on each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lit_instruct.evaluation import length, measures
from lit_instruct.evaluation.measures import rounded
from lit_instruct.evaluation.options import EvalOptions
from lit_instruct.evaluation.seen import Seen
from lit_instruct.evaluation.systems import System

if TYPE_CHECKING:
    from data_modules.rows import PromptRow

SHOWN_SAMPLES = 9
MOST_SAMPLES = 1000
"""Most prompts in the page; all are in samples.jsonl."""
TESTED = ("labeler", "second_labeler", "reward")
"""Measures whose differences are tested: those of quality."""

Pairs = Sequence[tuple[str, str]]
"""Systems (ours, theirs) that are compared prompt by prompt."""


def figures_of(options: EvalOptions, systems: list[System], cases: list[str], pairs: Pairs) -> dict[str, Any]:
    """Returns all figures of the report, overall and by use case."""
    everyone = list(range(len(cases)))
    by_case = {case: [i for i in everyone if cases[i] == case] for case in sorted(set(cases))}
    texts = {system.name: [response.text for response in system.responses] for system in systems}
    figures = _summary(systems, everyone, pairs, options.seed, tested=TESTED)
    figures["distinct_2"] = _distinct(texts, pairs, options.seed)
    figures["distinct_2_within_response"] = {name: measures.mean_distinct_n(own) for name, own in texts.items()}
    openings = {name: measures.commonest_opening(own) for name, own in texts.items()}
    figures["opening"] = {name: opening._asdict() if opening else None for name, opening in openings.items()}
    figures["length_corrected"] = _length_corrected(systems, pairs, options.seed)
    figures["by_use_case"] = {case: _summary(systems, index, pairs, options.seed) for case, index in by_case.items()}
    return figures


def _summary(
    systems: list[System], index: list[int], pairs: Pairs, seed: int, tested: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure -> system -> interval over the prompts in `index`, with the paired differences."""
    values = {s.name: {m: [v[i] for i in index] for m, v in s.per_prompt().items()} for s in systems}
    summary: dict[str, Any] = {"prompts": len(index), "win_rate": {}}
    for measure in dict.fromkeys(measure for own in values.values() for measure in own):
        own = {name: v[measure] for name, v in values.items() if measure in v}
        summary[measure] = {name: rounded(measures.bootstrap(v, seed)) for name, v in own.items()}
        for ours, theirs in pairs:
            if ours in own and theirs in own:
                key = f"{ours}_minus_{theirs}"
                summary[measure][key] = rounded(measures.paired_difference(own[ours], own[theirs], seed))
                if measure in tested:
                    summary[measure][key]["p_value"] = round(measures.sign_flip_p(own[ours], own[theirs], seed), 6)
    for ours, theirs in pairs:
        won = measures.wins(values[ours]["labeler"], values[theirs]["labeler"])
        summary["win_rate"][f"{ours}_vs_{theirs}"] = rounded(measures.bootstrap(won, seed))
    return summary


def _distinct(texts: dict[str, list[str]], pairs: Pairs, seed: int) -> dict[str, Any]:
    distinct: dict[str, Any] = {n: rounded(measures.distinct_2_interval(t, seed)) for n, t in texts.items()}
    for ours, theirs in pairs:
        base = distinct[theirs]["mean"]
        distinct[f"{ours}_over_{theirs}"] = distinct[ours]["mean"] / base if base else None
    return distinct


def _length_corrected(systems: list[System], pairs: Pairs, seed: int) -> dict[str, Any]:
    """Correlations of each system's scores with length, and each pair's comparison at like and at equal length."""
    tokens = {system.name: [len(response.ids) for response in system.responses] for system in systems}
    labels = {system.name: system.labeler for system in systems}
    found: dict[str, Any] = {"like": length.LIKE, "systems": {}, "pairs": {}}
    for system in systems:
        own, row = tokens[system.name], {"labeler": length.correlation(system.labeler, tokens[system.name])}
        if system.reward is not None:
            row["reward"] = length.correlation(system.reward, own)
            row["labeler_and_reward"] = length.correlation(system.labeler, system.reward)
            row["labeler_and_reward_given_length"] = length.partial_correlation(system.labeler, system.reward, own)
        found["systems"][system.name] = {name: None if r is None else round(r, 6) for name, r in row.items()}
    for ours, theirs in pairs:
        like = length.alike(tokens[ours], tokens[theirs])
        won = np.asarray(measures.wins(labels[ours], labels[theirs]))[like].tolist()
        gain = np.subtract(labels[ours], labels[theirs]).tolist()
        equal = length.difference_at_equal_length(gain, tokens[ours], tokens[theirs], seed)
        found["pairs"][f"{ours}_vs_{theirs}"] = {
            "prompts_of_like_length": len(won),
            "win_rate_at_like_length": rounded(measures.bootstrap(won, seed)) if won else None,
            "labeler_difference_at_equal_length": rounded(equal) if equal else None,
        }
    return found


def samples_of(
    systems: list[System], rows: Sequence[PromptRow], cases: list[str], pairs: Pairs, seen: Seen
) -> list[dict[str, Any]]:
    """Returns every prompt with each system's response and scores: the rows of samples.jsonl."""
    by_name = {system.name: system for system in systems}
    samples: list[dict[str, Any]] = []
    for i, (row, case) in enumerate(zip(rows, cases, strict=True)):
        sample: dict[str, Any] = {"prompt": row.prompt, "use_case": case}
        for ours, theirs in pairs:
            sample[f"{ours}_minus_{theirs}"] = round(by_name[ours].labeler[i] - by_name[theirs].labeler[i], 4)
        sample |= {"trained_on_by": names} if (names := seen.stages_of(i)) else {}
        samples.append(sample | {"responses": {system.name: _response(system, i) for system in systems}})
    return samples


def _response(system: System, i: int) -> dict[str, Any]:
    found = {
        "text": system.responses[i].text,
        "ended": bool(system.responses[i].ended),
        "tokens": len(system.responses[i].ids),
        "labeler": round(system.labeler[i], 4),
        "second_labeler": round(system.second_labeler[i], 4),
    }
    return found | ({"reward": round(system.reward[i], 4)} if system.reward is not None else {})


def ranked_samples(samples: Sequence[dict[str, Any]], pair: tuple[str, str], n: int = SHOWN_SAMPLES) -> Ranked:
    """Returns samples ranked by the labeler's difference, best to worst, and which n of them are shown first.

    Those are evenly spaced over the ranking, so that gains and losses are shown in the proportion in which they occur.
    Ties keep the order of the prompts. Of more than MOST_SAMPLES, evenly spaced ones are kept.
    """
    ranked = sorted(samples, key=lambda sample: -sample[f"{pair[0]}_minus_{pair[1]}"])
    kept = [ranked[i] for i in _spaced(len(ranked), MOST_SAMPLES)]
    return Ranked(kept, set(_spaced(len(kept), n)))


def _spaced(count: int, n: int) -> list[int]:
    return list(range(count)) if count <= n else [round(i * (count - 1) / (n - 1)) for i in range(n)]


class Ranked(NamedTuple):
    """Samples of the page."""

    samples: list[dict[str, Any]]
    shown: set[int]
    """Indices of those that are shown before anything is searched."""
