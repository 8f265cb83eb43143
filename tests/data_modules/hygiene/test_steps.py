"""Each step of hygiene on literal arrays and against a slow twin, and their order."""

from __future__ import annotations

import random

import numpy as np
import pytest
from jsonargparse import ArgumentParser

from data_modules.hygiene.steps import (
    FactArrays,
    HygieneOptions,
    beyond,
    clean,
    has_kind,
    is_few_shot,
    off_mix,
    parse_mix,
    repeated,
    split_off,
    use_case_shares,
)
from lit_instruct.errors import UserError

OFF = HygieneOptions(max_per_user=None, personal_information="keep")


def numbers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def facts(split: list[float], **given: list[int]) -> FactArrays:
    kinds = {"prefix": np.uint64, "user": np.uint64, "personal": np.uint8, "use_case": np.uint16}
    return FactArrays(
        np.array(split), *(np.array(given.get(name, [0] * len(split)), kind) for name, kind in kinds.items())
    )


def test_repeated():
    assert repeated(numbers(7, 3, 7, 7, 3, 9)).tolist() == [False, False, True, True, True, False]
    assert repeated(numbers()).tolist() == []


def test_beyond():
    users = numbers(5, 0, 5, 4, 5, 0, 0, 4)
    assert beyond(users, 1).tolist() == [False, False, True, False, True, False, False, True]
    assert beyond(users, 2).tolist() == [False, False, False, False, True, False, False, False]
    assert not beyond(users, 99).any()
    assert beyond(numbers(), 2).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_repeated_and_beyond_are_what_a_loop_finds(seed: int):
    draw = random.Random(seed)
    keys = [draw.randrange(30) for _ in range(200)]
    assert repeated(numbers(*keys)).tolist() == [key in keys[:i] for i, key in enumerate(keys)]
    for limit in (1, 3, 8):
        expected = [key != 0 and keys[:i].count(key) >= limit for i, key in enumerate(keys)]
        assert beyond(numbers(*keys), limit).tolist() == expected


def test_split_takes_what_is_below_the_share():
    hashes = np.array([0.05, 0.9, 0.15, 0.05, 0.25])
    assert split_off(hashes, 0.2).tolist() == [True, False, True, True, False]
    assert split_off(hashes, 0).tolist() == [False] * 5


def test_split_leaves_no_side_empty():
    assert split_off(np.array([0.5, 0.3, 0.7]), 1e-9).tolist() == [False, True, False]
    assert split_off(np.array([0.5, 0.3, 0.7]), 0.999).tolist() == [True, True, False]
    assert split_off(np.array([0.5, 0.5]), 0.9).tolist() == [False, False]
    assert split_off(np.zeros(0), 0.5).tolist() == []


def test_split_is_stable_under_added_rows():
    draw = random.Random(0)
    hashes = [draw.random() for _ in range(200)]
    before = split_off(np.array(hashes), 0.2)
    after = split_off(np.array([*(draw.random() for _ in range(300)), *hashes]), 0.2)
    assert after[300:].tolist() == before.tolist()
    assert 20 < before.sum() < 60


def test_kinds_are_bits():
    personal = np.array([0, 1, 2, 3, 16], dtype=np.uint8)
    assert has_kind(personal, "email").tolist() == [False, True, False, True, False]
    assert has_kind(personal, "address").tolist() == [False, False, False, False, True]


def test_mix_has_the_wanted_shares_and_is_as_large_as_possible():
    cases = np.array([1] * 60 + [2] * 30 + [3] * 10, dtype=np.uint16)
    hashes = np.random.default_rng(0).random(100)
    everyone = np.ones(100, dtype=bool)
    kept = ~off_mix(cases, everyone, hashes, np.array([0, 0.5, 0.5, 0]), seed=0)
    assert np.bincount(cases[kept], minlength=4).tolist() == [0, 30, 30, 0]
    kept = ~off_mix(cases, everyone, hashes, np.array([0, 1, 2, 1]), seed=0)
    assert np.bincount(cases[kept], minlength=4).tolist() == [0, 10, 20, 10]


def test_mix_counts_and_marks_only_the_rows_it_may():
    cases = np.array([1, 1, 1, 2, 2, 0], dtype=np.uint16)
    among = np.array([False, True, True, True, False, True])
    marked = off_mix(cases, among, np.linspace(0, 0.9, 6), np.array([0, 0.5, 0.5]), seed=0)
    assert not marked[~among].any()
    assert marked[5] and not marked[3] and marked[1:3].sum() == 1


def test_mix_depends_on_seed_and_not_on_order():
    cases = np.array([1] * 40 + [2] * 10, dtype=np.uint16)
    hashes = np.random.default_rng(1).random(50)
    everyone, shares = np.ones(50, dtype=bool), np.array([0, 0.5, 0.5])
    chosen = set(hashes[~off_mix(cases, everyone, hashes, shares, seed=0)])
    order = np.random.default_rng(2).permutation(50)
    assert set(hashes[order][~off_mix(cases[order], everyone, hashes[order], shares, seed=0)]) == chosen
    assert set(hashes[~off_mix(cases, everyone, hashes, shares, seed=1)]) != chosen


def test_shares_of_use_cases():
    cases = np.array([2, 1, 2, 0], dtype=np.uint16)
    assert use_case_shares(cases, ["unknown", "chat", "open_qa"]) == {"open_qa": 0.5, "unknown": 0.25, "chat": 0.25}
    assert use_case_shares(np.zeros(3, dtype=np.uint16), ["unknown"]) == {}


FEW_SHOT = [
    "Q: 2+2?\nA: 4\nQ: 3+3?\nA: 6\nQ: 4+4?\nA:",
    "Tweet 1: I love it\nSentiment: good\n\nTweet 2: meh\nSentiment: bad\n\nTweet 3: fine\nSentiment:",
    "cat -> chat\n###\ndog -> chien\n###\nhouse ->",
    "English: cat\nFrench: chat\nEnglish: dog\nFrench: chien\nEnglish: house\nFrench:",
]
NOT_FEW_SHOT = [
    "Write a poem about the sea.",
    "Answer the question.\nQuestion: who wrote Faust?\nAnswer:",
    "Dear Ann,\nthe list: eggs, milk\nBest, Ben",
    "# Title\n\nA text.\n\n---\n\nSummarise it.",
]


@pytest.mark.parametrize("prompt", FEW_SHOT)
def test_examples_and_a_query_are_few_shot(prompt: str):
    assert is_few_shot(prompt)


@pytest.mark.parametrize("prompt", NOT_FEW_SHOT)
def test_other_prompts_are_not(prompt: str):
    assert not is_few_shot(prompt)


def test_nothing_asked_for_nothing_removed():
    cleaned = clean(facts([0.1, 0.5], prefix=[1, 1], user=[1, 1], personal=[1, 1]), OFF, ["unknown"], None, 0, 0)
    assert cleaned.train.tolist() == [True, True]
    assert (cleaned.removed, cleaned.use_cases) == ({}, {})


def test_order_of_the_steps():
    """A duplicate does not count for its user, and what a user has too much does not count as personal."""
    given = facts(
        [0.9, 0.9, 0.8, 0.7, 0.6, 0.1],
        prefix=[1, 1, 2, 3, 4, 5],
        user=[7, 7, 7, 7, 0, 0],
        personal=[0, 0, 0, 1, 2, 1],
    )
    options = HygieneOptions(unique_prefix=4, max_per_user=2)
    cleaned = clean(given, options, ["unknown"], None, 0.2, 0)
    assert cleaned.train.tolist() == [True, False, True, False, False, False]
    assert cleaned.validation.tolist() == [False] * 5 + [True]  # personal information stays out of training only
    assert cleaned.removed == {
        "shared prefix": 1,
        "over the limit of a user": 1,
        "personal information": 1,
        "personal information (phone)": 1,
    }


def test_rows_of_a_validation_file_come_first_and_are_not_trained_on():
    given = facts([0.5] * 4, prefix=[1, 2, 1, 3])
    cleaned = clean(given, HygieneOptions(unique_prefix=4), ["unknown"], 2, 0.5, 0)
    assert cleaned.validation.tolist() == [True, True, False, False]
    assert cleaned.train.tolist() == [False, False, False, True]


def test_use_cases_are_those_of_the_training_rows():
    given = facts([0.1, 0.5, 0.6, 0.7], use_case=[1, 1, 1, 2])
    names = ["unknown", "chat", "open_qa"]
    assert clean(given, OFF, names, None, 0.2, 0).use_cases == {"chat": 0.6667, "open_qa": 0.3333}
    mixed = HygieneOptions(max_per_user=None, personal_information="keep", use_case_mix="chat=1,open_qa=1")
    cleaned = clean(given, mixed, names, None, 0.2, 0)
    assert cleaned.use_cases == {"chat": 0.5, "open_qa": 0.5}
    assert cleaned.removed == {"use-case mix": 1}
    assert cleaned.validation.tolist() == [True, False, False, False]


def test_a_use_case_that_no_prompt_has():
    options = HygieneOptions(use_case_mix="poetry=1")
    with pytest.raises(
        UserError, match=r"^--data.hygiene.use_case_mix: no prompt has the use case poetry; there are chat"
    ):
        clean(facts([0.1, 0.2], use_case=[1, 1]), options, ["unknown", "chat"], None, 0, 0)
    with pytest.raises(UserError, match="poetry; the rows name none$"):
        clean(facts([0.1, 0.2]), options, ["unknown"], None, 0, 0)


def test_mix_is_read():
    assert parse_mix("generation=0.5, chat=2") == {"generation": 0.5, "chat": 2.0}


@pytest.mark.parametrize(
    "text", ["", "chat", "chat=", "=1", "chat=0", "chat=-1", "chat=nan", "chat=inf", "chat=x", "chat=1,"]
)
def test_mix_that_is_none(text: str):
    with pytest.raises(UserError, match="^--data.hygiene.use_case_mix=.* is no share; write use_case=number"):
        HygieneOptions(use_case_mix=text)


@pytest.mark.parametrize("name", ["unique_prefix", "max_per_user"])
def test_impossible_numbers(name: str):
    with pytest.raises(UserError, match=f"^--data.hygiene.{name}=0: must be at least 1, or null$"):
        HygieneOptions(**{name: 0})  # type: ignore[arg-type]


def test_options_are_read_from_the_command_line():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--hygiene", type=HygieneOptions, default=HygieneOptions())
    found = parser.instantiate(parser.parse_args(["--hygiene.unique_prefix=32", "--hygiene.max_per_user=null"]))
    assert found.hygiene == HygieneOptions(unique_prefix=32, max_per_user=None)
