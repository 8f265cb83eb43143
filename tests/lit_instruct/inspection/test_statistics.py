"""Counts of rows: lengths, ties, duplicates, use cases."""

from __future__ import annotations

from collections import Counter

import pytest

from data_modules.reading.bad_rows import BadRows
from data_modules.rows import Demonstration, PromptRow, RankedComparison
from lit_instruct.inspection.statistics import RowStatistics, describe_lengths, histogram, quantile
from lit_instruct.prompting import Prompter
from tests.tiny import tiny_tokenizer


def statistics(limit: int = 1000) -> RowStatistics:
    return RowStatistics(Prompter(tiny_tokenizer()), limit, BadRows())


@pytest.mark.parametrize(
    ("lengths", "bins", "expected"),
    [
        ([0, 1, 1, 3], 4, [(0, 0, 1), (1, 1, 2), (2, 2, 0), (3, 3, 1)]),
        ([4, 9, 10], 3, [(0, 4, 1), (5, 9, 1), (10, 14, 1)]),
        ([100], 12, [(start, start + 9, int(start == 100)) for start in range(0, 101, 10)]),
        ([], 3, [(0, 0, 0)]),
    ],
)
def test_histogram(lengths: list[int], bins: int, expected: list[tuple[int, int, int]]):
    found = histogram(Counter(lengths), bins)
    assert [(one["from"], one["to"], one["count"]) for one in found] == expected


def test_quantiles():
    counts = Counter([1, 2, 2, 3, 10])
    assert [quantile(counts, share) for share in (0.2, 0.5, 0.6, 0.8, 0.95, 1.0)] == [1, 2, 2, 3, 10, 10]
    described = describe_lengths(counts)
    assert (described["mean"], described["median"], described["p95"], described["max"]) == (3.6, 2, 10, 10)


def test_ties_and_k():
    found = statistics()
    found.add(
        [
            RankedComparison("a", ["b", "c", "d"], [1, 1, 2]),
            RankedComparison("b", ["b", "c"], [1, 1]),
            RankedComparison("c", ["b", "b", "c", "d"], [1, 1, 2, 3]),
            RankedComparison("d", ["b", "c"], [2, 1]),
        ]
    )
    summary = found.summary()
    assert summary["k"] == {"2": 2, "3": 1, "4": 1}
    assert summary["ties"] == {
        "pairs": 3 + 1 + 6 + 1,
        "tied_pairs": 1 + 1 + 1,
        "rows_with_ties": 3,
        "rows_all_tied": 1,
        "identical_responses": 1,
    }


def test_duplicates_users_and_use_cases():
    found = statistics()
    found.add([PromptRow("a", "u1", "chat"), PromptRow("a", "u2", "chat"), PromptRow("b", "u1"), PromptRow("c")])
    summary = found.summary()
    assert summary["duplicates"] == {"prompts": 1, "rows": 1} and summary["users"] == 2
    assert summary["use_cases"] == {"chat": 0.5, "unnamed": 0.5}
    found = statistics()
    found.add([Demonstration("a", "b"), Demonstration("a", "c"), Demonstration("a", "b", extra={"use_case": "x"})])
    summary = found.summary()
    assert summary["duplicates"] == {"prompts": 2, "rows": 1} and summary["users"] == 0
    assert summary["use_cases"] == {"unnamed": 0.6667, "x": 0.3333}
    assert "k" not in summary and "ties" not in summary


def test_lengths_and_the_limit():
    prompter = Prompter(tiny_tokenizer())
    prompt, short, long = (len(prompter.prompt_ids("a")), *(len(prompter.response_ids(t)) for t in ("b", "b b b b")))
    found = statistics(limit=prompt + short)
    rows = [RankedComparison("a", ["b", "c"], [1, 2]), RankedComparison("a", ["b", "b b b b"], [1, 2])]
    assert found.add(rows) == rows[:1]
    summary = found.summary()
    assert summary["length_limit"] == {"tokens": prompt + short, "rows_over": 1}
    assert summary["tokens"]["prompt"]["max"] == prompt
    assert summary["tokens"]["response"]["max"] == long
    assert summary["tokens"]["longest sequence"]["max"] == prompt + long


def test_rows_that_the_template_refuses_are_bad_rows():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('never') }}{% endif %}"
        "{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    bad = BadRows()
    found = RowStatistics(Prompter(tokenizer), 99, bad)
    rows = [Demonstration(text, "b", where=f"f:{number}") for number, text in enumerate(["a", "no", "c"])]
    assert found.add(rows) == [rows[0], rows[2]]
    assert (found.rows, bad.count) == (2, 1) and str(bad.first).startswith("f:1: prompt: the model's chat template")
