"""Hashes of prompts: what counts as the same question."""

from __future__ import annotations

import numpy as np

from lit_instruct.prompting.hashes import hashes_of, prompt_hash, questions_in

ASKED = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]


def test_a_hash_stays_the_same_for_ever() -> None:
    assert prompt_hash("What is the capital of France?") == 11913285750862035311


def test_the_same_question() -> None:
    system = {"role": "system", "content": "Be brief."}
    same = ["a b", " a\n b ", [{"role": "user", "content": "a b"}], [system, {"role": "user", "content": "a  b"}]]
    assert len({prompt_hash(prompt) for prompt in same}) == 1
    others = ["a c", "A b", ASKED, [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]]
    assert len({prompt_hash(prompt) for prompt in [same[0], *others]}) == 5


def test_hashes_are_distinct_and_sorted() -> None:
    found = hashes_of(["b", "a", "b", "c"])
    assert found.dtype == np.uint64
    assert found.tolist() == sorted(prompt_hash(text) for text in "abc")
    assert hashes_of([]).shape == (0,)


def test_the_questions_of_a_conversation() -> None:
    assert list(questions_in("a")) == ["a"]
    assert list(questions_in(ASKED)) == [ASKED[:1], ASKED]
