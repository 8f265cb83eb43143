"""What the figures allow to be said: rules on numbers, and the sentences at the top of the report."""

from __future__ import annotations

from typing import Any, Literal

from lit_instruct.evaluation.page import number, percent, signed
from lit_instruct.evaluation.seen import name_of_prompts

Finding = Literal["up", "down", "unclear", "too few", "not moved"]
FEWEST_PROMPTS = 30
"""Below this number no system is called better: the bootstrap's intervals are too narrow on so few."""
LARGEST_P = 0.05
LEAST_KL = 0.1
"""Nats per response below which a policy is still its reference: by Pinsker's inequality at most 22 % of its responses
differ in distribution, and a difference in scores is mostly noise of sampling."""
LEAST_VARIETY = 0.85
"""Lowest distinct-2 over the other system's without a warning; runs of the demo have 0.9 and more if they answer the
prompts, and 0.5 to 0.8 if one sentence answers most of them (recipes/README.md)."""
LEAST_OPENING = 0.1
"""Share of responses with the same first words from which on it is a collapse, if it is also twice the other's."""
FEWEST_ALIKE = 5
LENGTH_CHANGE = 0.25
"""Relative change of the length from which on it is said."""


def direction(interval: dict[str, float], zero: float = 0.0) -> Literal["up", "down", "unclear"]:
    """Returns "up" or "down" if the interval lies on one side of `zero`, "unclear" if it contains it."""
    if interval["ci_low"] > zero:
        return "up"
    return "down" if interval["ci_high"] < zero else "unclear"


def finding(difference: dict[str, float], prompts: int, kl: dict[str, float] | None) -> Finding:
    """Returns what may be said of a paired difference in scores.

    Args:
        difference: mean, ci_low, ci_high and p_value over the prompts.
        prompts: their number.
        kl: of ours to theirs, in nats per response, if theirs is the reference; else None.
    """
    if prompts < FEWEST_PROMPTS:
        return "too few"
    if kl is not None and (kl["mean"] < LEAST_KL or kl["ci_low"] <= 0):
        return "not moved"
    return direction(difference) if difference["p_value"] < LARGEST_P else "unclear"


def verdict(report: dict[str, Any]) -> list[str]:
    """Returns the result as sentences, whichever way it went: for each pair what was gained, then what it cost."""
    return [sentence for pair in report["pairs"] for sentence in (_gain(report, *pair), *_costs(report, *pair))]


def collapse(report: dict[str, Any], ours: str, theirs: str) -> list[str]:
    """Returns sentences if a system gives similar responses to different prompts, a sign of reward exploitation.

    Args:
        report: with the figures distinct_2, opening and prompts.
        ours: the system.
        theirs: the one that it is compared with.
    """
    said = []
    ratio = report["distinct_2"][f"{ours}_over_{theirs}"]
    if ratio is not None and ratio < LEAST_VARIETY:
        said.append(
            f"{ours} gives similar responses to different prompts: its distinct-2 is {percent(ratio)} of {theirs}'s"
        )
    own, other, n = report["opening"][ours], report["opening"][theirs], report["prompts"]
    before = other["responses"] if other else 0
    if own and own["responses"] >= max(FEWEST_ALIKE, LEAST_OPENING * n) and own["responses"] >= 2 * before:
        said.append(
            f"{ours} begins {own['responses']} of {n} responses with \N{LEFT DOUBLE QUOTATION MARK}{own['text']}"
            f"\N{RIGHT DOUBLE QUOTATION MARK} ({theirs}: {before} with its commonest opening)"
        )
    return said


def warned_of_collapse(report: dict[str, Any]) -> list[str]:
    """Returns a warning for each pair with a collapse, and what to do about it."""
    found = ["; ".join(said) for pair in report["pairs"] if (said := collapse(report, *pair))]
    advice = (
        ". A higher score may come from one sentence that the reward model likes; inspect the samples, raise "
        "--model.kl.coef or reduce --model.iterations"
    )
    return [said + advice for said in found]


def length_change(length: dict[str, Any], ours: str, theirs: str) -> str | None:
    """Returns a sentence if responses became clearly longer or shorter, by a quarter or more."""
    before, after = length[theirs]["mean"], length[ours]["mean"]
    if (
        before == 0
        or abs(after / before - 1) < LENGTH_CHANGE
        or direction(length[f"{ours}_minus_{theirs}"]) == "unclear"
    ):
        return None
    word = "shorter" if after < before else "longer"
    return (
        f"its responses are {percent(abs(after / before - 1))} {word} ({number(before, 1)} → {number(after, 1)} tokens)"
    )


def _gain(report: dict[str, Any], ours: str, theirs: str) -> str:
    labels, n = report["systems"], report["prompts"]
    us, them, prompts = labels[ours], labels[theirs], f"{n} {name_of_prompts(report['seen'])}"
    key, kl = f"{ours}_minus_{theirs}", kl_between(report, ours, theirs)
    gain, win = report["labeler"][key], report["win_rate"][f"{ours}_vs_{theirs}"]
    found, judge = finding(gain, n, kl), report["judge"]
    interval = f"{signed(gain['mean'])}, 95 % interval {signed(gain['ci_low'])} to {signed(gain['ci_high'])}"
    if found == "too few":
        return (
            f"{prompts} are too few to say whether {us} is better than {them}, which takes {FEWEST_PROMPTS}; the "
            f"{judge}'s difference on them is {interval}."
        )
    if found == "not moved":
        return (
            f"{us} is still where {them} is ({distance(kl)}): a difference in the {judge}'s score on {prompts} "
            f"({interval}) is noise of sampling."
        )
    words = {
        "up": f"scores higher than {them} with the {judge}",
        "down": f"scores lower than {them} with the {judge}",
        "unclear": f"cannot be told apart from {them} by the {judge}",
    }[found]
    second = {
        "up": "the second labeler puts it higher",
        "down": "the second labeler puts it lower",
        "unclear": "the second labeler sees no clear difference",
    }[direction_of(report, "second_labeler", ours, theirs)]
    far = f", at a distance of {distance(kl)}" if kl is not None else ""
    p = "p < 0.001" if gain["p_value"] < 0.001 else f"p = {number(gain['p_value'], 3)}"
    preferred = f"is preferred to it on {percent(win['mean'])} of {prompts}"
    return f"{us} {words} ({interval}; {p} in a paired test) and {preferred}{far}; {second}."


def _costs(report: dict[str, Any], ours: str, theirs: str) -> list[str]:
    change = length_change(report["length"], ours, theirs)
    said = [*([f"{report['systems'][ours]}: {change}"] if change else []), *collapse(report, ours, theirs)]
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in said]


def kl_between(report: dict[str, Any], ours: str, theirs: str) -> dict[str, float] | None:
    """Returns the KL between two systems, in nats per response, if one of them is the reference; else None."""
    kl = report.get("kl", {})
    other = {theirs: ours, ours: theirs}.get(report["reference"])
    return kl.get(other)


def direction_of(report: dict[str, Any], measure: str, ours: str, theirs: str) -> Literal["up", "down", "unclear"]:
    """Returns "up" or "down" if a measure of quality differs by the rules of `finding`, else "unclear"."""
    kl = kl_between(report, ours, theirs)
    found = finding(report[measure][f"{ours}_minus_{theirs}"], report["prompts"], kl)
    return found if found in ("up", "down") else "unclear"


def distance(kl: dict[str, float] | None) -> str:
    """Returns a KL in words; an estimate below 0 is noise, because a KL is never negative."""
    if kl is None:
        return "n/a"
    if kl["mean"] < 0:
        return f"0 nats per response, estimated as {number(kl['mean'], 2)}"
    return f"{number(kl['mean'], 1 if kl['mean'] >= 1 else 2)} nats per response"
