"""The pairs that labelers are measured on, and the measures."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from benchmarks.harness import DEMO
from benchmarks.labeler import by_kind, fit, fitted, read_pairs, share, wins
from lit_instruct.evaluation.labelers import is_finished, repetition_penalty, tone
from lit_instruct.evaluation.prompt_aware import BIAS, WEIGHTS
from lit_instruct.evaluation.prompt_gain import embedded_gain

FIRST = {"generic", "echo", "off_topic", "unfinished", "harsh", "repetition"}
LATER = {"topical_praise": 24, "nonsense": 20, "keywords": 14, "short": 14, "wrong": 10, "own_samples": 25}
"""Kinds that games the first version of the labeler met, pairs of SFT's samples among them, with their number."""


def test_the_pairs_by_kind() -> None:
    pairs = read_pairs()
    kinds = Counter(pair["kind"] for pair in pairs)
    assert {kind: kinds[kind] for kind in kinds if kind not in FIRST} == LATER
    assert {kinds[kind] for kind in FIRST} == {33, 34}
    held_out = Counter(pair["kind"] for pair in pairs if pair["split"] == "held_out")
    assert all(0.35 <= held_out[kind] / kinds[kind] <= 0.5 for kind in kinds)
    for pair in pairs:
        assert set(pair) == {"prompt", "better", "worse", "kind", "split"}
        assert pair["better"].strip() != pair["worse"].strip()


def test_no_prompt_is_one_of_the_demos_but_those_of_its_training_samples() -> None:
    ours = {pair["prompt"].lower(): pair["kind"] for pair in read_pairs()}
    for split in ("train", "validation"):
        lines = (DEMO / f"prompts_{split}.jsonl").read_text(encoding="utf-8").splitlines()
        shared = ours.keys() & {json.loads(line)["prompt"].lower() for line in lines}
        assert {ours[prompt] for prompt in shared} == ({"own_samples"} if split == "train" else set())


def test_the_kinds_are_what_they_say() -> None:
    worse = {kind: [pair["worse"] for pair in read_pairs() if pair["kind"] == kind] for kind in FIRST}
    assert not any(map(is_finished, worse["unfinished"]))
    assert all(map(repetition_penalty, worse["repetition"]))
    assert all(score > 0 for score in tone([("", text) for text in worse["generic"]]))


@pytest.mark.parametrize("split", ["development", "held_out", None])
def test_length_picks_the_right_one_about_half_of_the_time(split: str | None) -> None:
    pairs = [pair for pair in read_pairs() if pair["kind"] in FIRST]
    longer = by_kind(wins(lambda texts: [len(response) for _, response in texts], pairs), pairs, split)
    assert 0.45 <= longer["fitted kinds"]["share"] <= 0.58
    assert all(0.35 <= found["share"] <= 0.7 for found in longer.values())


def test_tone_alone_prefers_generic_praise() -> None:
    pairs = read_pairs()
    found = by_kind(wins(tone, pairs), pairs, None)
    assert found["generic"]["share"] < 0.1
    assert found["harsh"]["share"] > 0.9


def test_shares_and_their_intervals() -> None:
    pairs = [{"prompt": "", "better": better, "worse": "bb", "kind": better, "split": "held_out"} for better in "aaab"]
    pairs[3]["better"] = "bbb"
    won = wins(lambda texts: [len(response) for _, response in texts], [*pairs, {**pairs[0], "better": "cc"}])
    assert won == [0.0, 0.0, 0.0, 1.0, 0.5]
    found = by_kind(won[:4], pairs, "held_out")
    assert found["fitted kinds"]["share"] == 0.25
    assert found["a"] == share([0.0] * 3)
    # Wilson's interval of 9 out of 10 is (0.596, 0.982)
    assert share([1.0] * 9 + [0.0]) == {"share": 0.9, "ci_low": 0.596, "ci_high": 0.982, "pairs": 10}


def test_fit_finds_the_feature_that_decides() -> None:
    better = torch.tensor([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    worse = torch.tensor([[0.0, 1.0], [0.5, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    weights, bias = fit(better, worse)
    assert weights[0] > 10 * abs(weights[1])
    mean = (torch.cat([better, worse]) @ torch.tensor(weights, dtype=torch.float64)).mean()
    assert bias == pytest.approx(-float(mean))


@pytest.mark.slow
def test_the_weights_are_those_that_the_development_pairs_give() -> None:
    """The weight of the length is set: all responses of the pairs lie within its band or close to it."""
    found = fitted(embedded_gain(), read_pairs())
    for name, weight in WEIGHTS._asdict().items():
        if name != "length":
            assert found[name] == pytest.approx(weight, rel=0.05), name
    assert found["bias"] == pytest.approx(BIAS, abs=0.1)
