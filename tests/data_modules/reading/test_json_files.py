"""JSON lines and JSON lists: the same values from both, and the line of what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_modules.rows import PromptRow, read_rows
from tests.data_modules.reading.files import LONG, file, prompts, reason, skipped


def test_bad_lines_of_json_lines(tmp_path: Path):
    lines = [
        '{"prompt": "a"}',
        '{"prompt": "b"',
        '{"prompt": ""}',
        '{"prompt": "c", "number": ' + "1" * 5000 + "}",
        "[" * 100_000,
        '{"text": "d"}',
        '{"prompt": "e"}',
    ]
    path = file(tmp_path, "\n".join(lines).encode() + b'\n{"prompt": "\xe9"}\n')
    assert reason(path) == ":2: broken JSON (Expecting ',' delimiter, column 15); correct the line"
    left, bad = skipped(path)
    assert left == ["a", "e"]
    assert [place for place, _ in bad] == [":2", ":3", ":4", ":5", ":6", ":8"]
    assert [text.split("; ")[0] for _, text in bad] == [
        "broken JSON (Expecting ',' delimiter, column 15)",
        'field "prompt" is empty',
        "a number with thousands of digits",
        "JSON that is nested too deeply",
        'field "prompt" is missing',
        "not UTF-8 text",
    ]


def test_an_item_of_10_mb_in_a_json_list(tmp_path: Path):
    path = file(tmp_path, '[{"prompt": "a"},\n{"prompt": "' + LONG + '"}]', "rows.json")
    assert reason(path).startswith(":2: ") and "an item longer than 8 MiB" in reason(path)
    path = file(tmp_path, '[{"prompt": "a"},\n{"prompt": "' + "x" * 2**20 + '"}, {"prompt": "b"}]', "rows.json")
    assert [len(prompt) for prompt in prompts(path)] == [1, 2**20, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "a"}, ]', ":1: broken JSON ("),
        ('[{"prompt": "a"}\n{"prompt": "b"}]', ":2: broken JSON (Expecting ',' or ']')"),
        ('[{"prompt": "a"}\n', ":2: broken JSON (Expecting ',' or ']')"),
        ('[{"prompt": "a"},\n{"prompt": "b]', ":2: broken JSON (Unterminated string"),
        ('[{"prompt": "a"}]\n[]', ":2: broken JSON (text after the list's end)"),
        ('[{"prompt": "a"},\n 12]', ":2: expected a JSON object, found a number"),
        ("[]", ":1: the file is empty; it needs at least one row"),
        ("[" * 100_000, ":1: broken JSON (nested too deeply)"),
        ("[" + "1" * 5000 + "]", ":1: broken JSON (a number with thousands of digits)"),
        ('"prompt"', ":1: a .json file must hold a list of rows"),
        (b'[{"prompt": "a"},\n\n{"prompt": "\xe9"}]', ":3: not UTF-8 text"),
    ],
)
def test_broken_json_lists(tmp_path: Path, content: str | bytes, message: str):
    assert reason(file(tmp_path, content, "rows.json")).startswith(message)


@pytest.mark.parametrize(
    "value",
    ["1.0", "1e5", "-0.0", "1e999", "NaN", "12345678901234567890123", '"\\u00e9"', '{"a": 1, "a": 2}', "null"],
)
def test_a_json_list_holds_the_same_values_as_json_lines(tmp_path: Path, value: str):
    """ijson stops at NaN, at infinity and at whole numbers over 64 bits."""
    record = f'{{"prompt": "a", "n": {value}}}'
    (line,) = read_rows(file(tmp_path, record), PromptRow)
    (item,) = read_rows(file(tmp_path, f"[{record}]", "rows.json"), PromptRow)
    assert repr(item) == repr(line) == repr(PromptRow("a", extra={"n": json.loads(value)}))


def test_half_a_character_in_a_json_list_is_refused(tmp_path: Path):
    """ijson turns it into a question mark."""
    path = file(tmp_path, '[{"prompt": "a"},\n{"prompt": "b \\ud83d"}]', "rows.json")
    assert "lone surrogate" in reason(path)
    assert skipped(path)[0] == ["a"]


def test_a_json_list_is_read_in_small_pieces_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    records = [{"prompt": f"é{number}\n", "n": [number, 1.5, None, {"a": "]}"}]} for number in range(50)]
    path = file(tmp_path, "\ufeff " + json.dumps(records, indent=1, ensure_ascii=False), "rows.json")
    whole = read_rows(path, PromptRow)
    monkeypatch.setattr("data_modules.reading.json_files.CHUNK", 3)
    pieces = read_rows(path, PromptRow)
    assert pieces == whole and [row.extra["n"][0] for row in whole] == list(range(50))
    assert [row.where for row in pieces] == [row.where for row in whole]
