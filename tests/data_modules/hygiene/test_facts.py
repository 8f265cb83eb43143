"""What is recorded about each prompt: who shares a prefix, a user, a side of the split."""

from __future__ import annotations

from typing import Any

import pytest

from data_modules.hygiene.facts import MAX_USE_CASES, PromptFacts, SplitFacts, unit_hash, user_text, whole_text
from data_modules.hygiene.steps import HygieneOptions
from data_modules.rows import PromptRow
from lit_instruct.prompting import Prompter
from tests.data_modules.hygiene.test_steps import FEW_SHOT
from tests.tiny import tiny_tokenizer

CHAT: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "b"},
    {"role": "user", "content": "c"},
]


@pytest.fixture
def letters() -> Prompter:
    return Prompter(tiny_tokenizer())


def prefixes(prompter: Prompter, options: HygieneOptions, *prompts: Any) -> list[int]:
    facts = PromptFacts(options, prompter)
    facts.add([PromptRow(prompt) for prompt in prompts])
    return list(facts.prefix)


def test_prefix_is_the_first_tokens(letters: Prompter):
    text = "the cat sat on the mat and"
    ids = letters.texts_ids([text, f"{text} ran", f"{text} sang"])
    shared = next(i for i, (a, b) in enumerate(zip(ids[1], ids[2], strict=False)) if a != b)
    for length in (1, shared, shared + 1):
        a, b = prefixes(letters, HygieneOptions(unique_prefix=length), f"{text} ran", f"{text} sang")
        assert (a == b) == (length <= shared)


def test_a_prompt_that_ends_before_the_prefix_is_compared_whole(letters: Prompter):
    a, b, c = prefixes(letters, HygieneOptions(unique_prefix=500), "the cat", "the cat sat", "the cat")
    assert a == c != b


def test_few_shot_prompts_are_compared_whole(letters: Prompter):
    one, other = FEW_SHOT[0], FEW_SHOT[0].replace("4+4", "9+4")
    a, b, c = prefixes(letters, HygieneOptions(unique_prefix=4), one, other, one)
    assert a == c != b
    a, b = prefixes(letters, HygieneOptions(unique_prefix=4, exempt_few_shot=False), one, other)
    assert a == b


def test_the_system_message_is_no_prefix(letters: Prompter):
    other: Any = [CHAT[0], {"role": "user", "content": "quite another question"}]
    a, b = prefixes(letters, HygieneOptions(unique_prefix=2), CHAT, other)
    assert a != b
    assert (user_text(CHAT), whole_text(CHAT)) == ("a\nb\nc", "Be brief.\na\nb\nc")
    assert user_text("x") == whole_text("x") == "x"


def test_split_by_user_or_prompt(letters: Prompter):
    rows = [PromptRow("a", user="u"), PromptRow("b", user="u"), PromptRow("a"), PromptRow("a", user="v")]
    by_user, by_prompt = PromptFacts(HygieneOptions(), letters), PromptFacts(HygieneOptions(split_by="prompt"), letters)
    alone = SplitFacts()
    for facts in (by_user, by_prompt, alone):
        facts.add(rows)
    a, b, c, d = by_user.split
    assert a == b and len({a, c, d}) == 3
    assert list(by_prompt.split) == list(alone.split) == [unit_hash(row.prompt) for row in rows]
    assert c == unit_hash("a")


def test_hash_of_a_prompt_stays_what_it_was():
    """A changed hash would move rows from validation to training between two versions."""
    assert unit_hash("What is the capital of France?") == 0.10781081645301427


def test_users_are_counted(letters: Prompter):
    facts = PromptFacts(HygieneOptions(max_per_user=2, personal_information="keep"), letters)
    facts.add([PromptRow(f"{i}", user="u" if i % 2 else None) for i in range(10)])
    cleaned = facts.choose(None, 0, 0)
    assert cleaned.train.tolist() == [True, True, True, True] + [True, False] * 3
    assert cleaned.removed == {"over the limit of a user": 3}


def test_personal_information_is_looked_for_in_every_message(letters: Prompter):
    facts = PromptFacts(HygieneOptions(), letters)
    messages: Any = [{**CHAT[0], "content": "Mail jo.frost@posteo.de."}, CHAT[1]]
    facts.add([PromptRow(messages), PromptRow("a"), PromptRow("call +1 202-555-0143, mail jo.frost@posteo.de")])
    assert list(facts.personal) == [1, 0, 3]
    assert facts.choose(None, 0, 0).removed["personal information"] == 2


def test_names_without_end_are_no_use_cases(letters: Prompter):
    facts = PromptFacts(HygieneOptions(), letters)
    facts.add([PromptRow("a", use_case=str(i)) for i in range(MAX_USE_CASES + 5)])
    assert len(facts.use_cases) == MAX_USE_CASES
    assert list(facts.use_case)[-6:] == [0] * 6
    facts.add([PromptRow("a", use_case="0"), PromptRow("a")])
    assert list(facts.use_case)[-2:] == [1, 0]


def test_no_rows_at_all(letters: Prompter):
    for facts in (PromptFacts(HygieneOptions(unique_prefix=3), letters), SplitFacts()):
        assert len(facts.choose(None, 0.1, 0).train) == 0
