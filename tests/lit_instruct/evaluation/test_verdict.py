"""What the figures allow to be said, rule by rule."""

from __future__ import annotations

from typing import Any

import pytest

from lit_instruct.evaluation.verdict import collapse, direction, distance, finding, length_change, verdict

FAR = {"mean": 6.0, "ci_low": 5.0, "ci_high": 7.0}
CLEAR = {"mean": 0.3, "ci_low": 0.2, "ci_high": 0.4, "p_value": 0.001}


def interval(mean: float, reach: float = 0.1, **more: float) -> dict[str, float]:
    return {"mean": mean, "ci_low": mean - reach, "ci_high": mean + reach, **more}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.3, "up"), (-0.3, -0.1, "down"), (-0.1, 0.1, "unclear"), (0.0, 0.1, "unclear")],
)
def test_direction(low: float, high: float, expected: str) -> None:
    assert direction({"mean": 0.0, "ci_low": low, "ci_high": high}) == expected


@pytest.mark.parametrize(
    ("difference", "prompts", "kl", "expected"),
    [
        (CLEAR, 30, FAR, "up"),
        (CLEAR, 30, None, "up"),
        (interval(-0.3, p_value=0.001), 100, FAR, "down"),
        (CLEAR, 29, FAR, "too few"),
        (interval(0.05, p_value=0.001), 100, FAR, "unclear"),
        (CLEAR | {"p_value": 0.06}, 100, FAR, "unclear"),  # the paired test does not support the interval
        (CLEAR, 100, {"mean": 0.02, "ci_low": 0.01, "ci_high": 0.03}, "not moved"),
        (CLEAR, 100, {"mean": 0.4, "ci_low": -0.2, "ci_high": 1.0}, "not moved"),
        (CLEAR, 100, {"mean": -0.5, "ci_low": -0.9, "ci_high": -0.1}, "not moved"),  # a negative KL is not a distance
        (CLEAR, 100, {"mean": 0.1, "ci_low": 0.05, "ci_high": 0.15}, "up"),
    ],
)
def test_what_may_be_said(
    difference: dict[str, float], prompts: int, kl: dict[str, float] | None, expected: str
) -> None:
    assert finding(difference, prompts, kl) == expected


def figures(gain: float = 0.3, **changes: Any) -> dict[str, Any]:
    """The part of a report that the verdict reads, of PPO against SFT."""
    difference = interval(gain, p_value=0.001)
    return {
        "prompts": 100,
        "seen": {"held_out": True},
        "systems": {"sft": "SFT", "ppo": "PPO"},
        "pairs": [("ppo", "sft")],
        "reference": "sft",
        "judge": "labeler",
        "labeler": {"ppo_minus_sft": difference},
        "second_labeler": {"ppo_minus_sft": difference},
        "win_rate": {"ppo_vs_sft": interval(0.715)},
        "kl": {"ppo": FAR},
        "length": {"sft": {"mean": 27.1}, "ppo": {"mean": 27.0}, "ppo_minus_sft": interval(-0.1)},
        "distinct_2": {"ppo_over_sft": 0.95},
        "opening": {"sft": None, "ppo": None},
    } | changes


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (
            figures(),
            "PPO scores higher than SFT with the labeler (+0.30, 95 % interval +0.20 to +0.40; p = 0.001 in a paired "
            "test) and is preferred to it on 72 % of 100 held-out prompts, at a distance of 6.0 nats per response; the "
            "second labeler puts it higher.",
        ),
        (figures(-0.5), "PPO scores lower than SFT"),
        (figures(0.0), "PPO cannot be told apart from SFT"),
        (figures(prompts=12), "12 held-out prompts are too few to say whether PPO is better than SFT, which takes 30"),
        (figures(kl={"ppo": interval(0.01, 0.005)}), "PPO is still where SFT is (0.01 nats per response)"),
        (figures(kl={"ppo": interval(-0.2)}), "(0 nats per response, estimated as \N{MINUS SIGN}0.20)"),
        (figures(seen={"held_out": False}), "on 72 % of 100 prompts, at"),
    ],
)
def test_the_first_sentence(report: dict[str, Any], says: str) -> None:
    (sentence,) = verdict(report)
    assert says in sentence


@pytest.mark.parametrize("report", [figures(prompts=12), figures(kl={"ppo": interval(0.01, 0.005)}), figures(0.05)])
def test_nothing_is_called_better_without_support(report: dict[str, Any]) -> None:
    assert not any(word in " ".join(verdict(report)) for word in ("higher", "lower", "prefers"))


def test_a_pair_without_reference_has_no_distance() -> None:
    (sentence,) = verdict(figures(reference=None))
    assert "scores higher" in sentence and "nats" not in sentence


def opening(count: int, text: str = "That's a great") -> dict[str, Any]:
    return {"text": text, "responses": count}


@pytest.mark.parametrize(
    ("own", "other", "prompts", "told"),
    [
        (26, 3, 100, True),
        (10, 5, 100, True),
        (9, 0, 100, False),  # below a tenth
        (26, 14, 100, False),  # SFT begins nearly as often so
        (4, 0, 20, False),  # chance
        (300, 20, 5000, False),
    ],
)
def test_a_shared_opening_is_a_collapse(own: int, other: int, prompts: int, told: bool) -> None:
    report = figures(opening={"ppo": opening(own), "sft": opening(other, "I am a")}, prompts=prompts)
    said = collapse(report, "ppo", "sft")
    assert bool(said) is told
    if told:
        (sentence,) = said
        assert sentence.startswith(f"ppo begins {own} of {prompts} responses with \u201cThat's a great")
        assert f"(sft: {other} with its commonest opening)" in sentence
        assert any("responses with" in one for one in verdict(report))


def test_little_variety_is_a_collapse() -> None:
    for ratio in (0.85, 1.1, None):
        assert collapse(figures(distinct_2={"ppo_over_sft": ratio}), "ppo", "sft") == []
    (sentence,) = collapse(figures(distinct_2={"ppo_over_sft": 0.532}), "ppo", "sft")
    assert sentence == "ppo gives similar responses to different prompts: its distinct-2 is 53 % of sft's"


@pytest.mark.parametrize(
    ("after", "reach", "said"),
    [
        (13.5, 2.0, "its responses are 50 % shorter (27.0 → 13.5 tokens)"),
        (54.0, 2.0, "its responses are 100 % longer (27.0 → 54.0 tokens)"),
        (21.0, 2.0, None),  # less than a quarter
        (13.5, 20.0, None),  # not clear
    ],
)
def test_a_changed_length_is_said(after: float, reach: float, said: str | None) -> None:
    length = {"sft": {"mean": 27.0}, "ppo": {"mean": after}, "ppo_minus_sft": interval(after - 27.0, reach)}
    assert length_change(length, "ppo", "sft") == said
    assert length_change(length | {"sft": {"mean": 0.0}}, "ppo", "sft") is None
    if said:
        assert f"PPO: {said}." in verdict(figures(length=length))


def test_distances() -> None:
    assert distance(FAR) == "6.0 nats per response"
    assert distance(interval(0.25)) == "0.25 nats per response"
    assert distance(None) == "n/a"
