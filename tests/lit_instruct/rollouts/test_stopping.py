"""Where a response ends: ids, strings over several tokens, names of special tokens."""

from __future__ import annotations

import pytest
import torch

from lit_instruct.batches import right_pad
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.stopping import StopRule
from tests.tiny import tiny_tokenizer

EOS = 2


@pytest.fixture(scope="module")
def prompter() -> Prompter:
    return Prompter(tiny_tokenizer())


def _ids(prompter: Prompter, text: str) -> list[int]:
    return list(prompter.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_without_options_the_end_of_turn_ends(prompter: Prompter) -> None:
    rule = SamplingOptions().stop_rule(prompter)
    assert rule.ids == prompter.stop_ids
    assert rule.ended([5, EOS])
    assert not rule.ended([EOS, 5])
    assert not rule.ended([])
    ids = _ids(prompter, " Paris. ")
    assert rule.text([*ids, EOS]) == "Paris." == prompter.decode([*ids, EOS])
    assert rule.ended_by_id(torch.tensor([EOS, 5])).tolist() == [True, False]


def test_more_ids(prompter: Prompter) -> None:
    rule = SamplingOptions(stop_ids=[7, 9]).stop_rule(prompter)
    assert rule.ids == [*prompter.stop_ids, 7, 9]
    assert [rule.ended([5, last]) for last in (EOS, 7, 8, 9)] == [True, True, False, True]
    assert rule.ended_by_id(torch.tensor([EOS, 7, 8, 9])).tolist() == [True, True, False, True]


def test_ids_that_the_tokenizer_lacks_are_refused(prompter: Prompter) -> None:
    with pytest.raises(UserError, match="stop_ids"):
        SamplingOptions(stop_ids=[len(prompter.tokenizer)]).stop_rule(prompter)


@pytest.mark.parametrize("string", ["Paris", "\n", "is P", "ris.", "é", "."])
def test_a_string_ends_where_its_last_token_comes(prompter: Prompter, string: str) -> None:
    rule = SamplingOptions(stop_strings=[string]).stop_rule(prompter)
    ids = _ids(prompter, "The capital é of\nFrance is Paris. And more.")
    ends = [rule.ended(ids[:length]) for length in range(1, len(ids) + 1)]
    first = ends.index(True)
    whole = [prompter.tokenizer.decode(ids[:length]) for length in range(1, len(ids) + 1)]
    assert first == next(i for i, text in enumerate(whole) if string in text)
    text = "The capital é of\nFrance is Paris. And more."
    assert rule.text(ids[: first + 1]) == text[: text.index(string)].strip()
    assert rule.ended_by_string([ids, [ids[0]] * len(ids)], seen=0) == [first + 1, None]
    assert rule.ended_by_string([ids], seen=first) == [first + 1]


def test_the_first_of_several_strings_counts(prompter: Prompter) -> None:
    rule = SamplingOptions(stop_strings=["sea", "poem"]).stop_rule(prompter)
    ids = _ids(prompter, "a short poem about the sea")
    assert rule.text(ids) == "a short"


def test_padding_and_special_tokens_are_no_text(prompter: Prompter) -> None:
    rule = SamplingOptions(stop_strings=["<|pad"]).stop_rule(prompter)
    tokens, _ = right_pad([_ids(prompter, "cat sat on"), _ids(prompter, "cat")], prompter.pad_id)
    assert rule.ended_by_string(tokens.tolist(), seen=0) == [None, None]


def test_the_name_of_a_special_token_stands_for_its_id(prompter: Prompter) -> None:
    rule = SamplingOptions(stop_strings=["<|im_start|>", "cat"]).stop_rule(prompter)
    assert rule.ids == [*prompter.stop_ids, 1]
    assert rule.strings == ["cat"]
    assert rule.ended([5, 1])


def test_a_stop_string_longer_than_the_response(prompter: Prompter) -> None:
    rule = StopRule([], ["a very long stop string that never comes"], lambda ids: "a very")
    assert not rule.ended([5])
    assert rule.text([5]) == "a very"
