"""Rows of each kind, in each layout, and every defect with its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_modules.rows import Demonstration, PromptRow, RankedComparison, Row, read_rows
from lit_instruct.errors import UserError

GOOD: dict[type[Row], dict[str, Any]] = {
    Demonstration: {"prompt": "p", "response": "r"},
    RankedComparison: {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]},
    PromptRow: {"prompt": "p"},
}
QUESTION = [{"role": "user", "content": "p"}]
ANSWER = [{"role": "assistant", "content": "r"}]


def write(folder: Path, *lines: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_fields_extra_and_place(tmp_path: Path):
    path = write(tmp_path, {"prompt": "p", "user": "u1", "use_case": "chat", "id": 7}, "", {"prompt": QUESTION})
    first, second = read_rows(path, PromptRow)
    assert first == PromptRow("p", "u1", "chat", extra={"id": 7})
    assert second == PromptRow(QUESTION)
    assert (first.where, second.where) == (f"{path}:1", f"{path}:3")


def test_json_list_counts_lines(tmp_path: Path):
    text = '[\n {"prompt": "a"},\n {"prompt":\n   "b"}, {"prompt": "c"}\n]'
    path = write(tmp_path, text, name="rows.json")
    rows = read_rows(path, PromptRow)
    assert [row.prompt for row in rows] == ["a", "b", "c"]
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:3", f"{path}:4"]


def test_unusual_but_right_files(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a\xe2\x80\xa8b"}\r\n\r\n{"prompt": "c"}')  # BOM, U+2028, CRLF, no end
    assert [row.prompt for row in read_rows(path, PromptRow)] == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "p", "response": "r"},
        {"prompt": "p", "completion": "r"},
        {"prompt": "p", "completion": ANSWER},
        {"messages": [*QUESTION, *ANSWER]},
    ],
)
def test_layouts_of_demonstrations(tmp_path: Path, record: dict[str, Any]):
    (row,) = read_rows(write(tmp_path, record), Demonstration)
    assert row == Demonstration(QUESTION if "messages" in record else "p", "r")


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"prompt": "p", "responses": ["r", "s"], "ranks": [1, 2]}, "p"),
        ({"prompt": "p", "chosen": "r", "rejected": "s"}, "p"),
        (
            {"prompt": QUESTION, "chosen": ANSWER, "rejected": [{"role": "assistant", "content": "s"}]},
            QUESTION,
        ),
        (
            {"chosen": QUESTION + ANSWER, "rejected": [*QUESTION, {"role": "assistant", "content": "s"}]},
            QUESTION,
        ),
    ],
)
def test_layouts_of_comparisons(tmp_path: Path, record: dict[str, Any], prompt: Any):
    assert read_rows(write(tmp_path, record), RankedComparison) == [RankedComparison(prompt, ["r", "s"], [1, 2])]


def test_layouts_of_prompts(tmp_path: Path):
    path = write(tmp_path, {"messages": QUESTION}, {"messages": QUESTION + ANSWER}, GOOD[Demonstration])
    rows = read_rows(path, PromptRow)
    assert [row.prompt for row in rows] == [QUESTION, QUESTION, "p"]
    assert rows[2].extra == {"response": "r"}


def test_ties_and_an_empty_system_message_are_allowed(tmp_path: Path):
    prompt = [{"role": "system", "content": ""}, *QUESTION]
    path = write(tmp_path, {"prompt": prompt, "responses": ["a", "a", "b"], "ranks": [1, 1, 2]})
    assert read_rows(path, RankedComparison)[0].ranks == [1, 1, 2]


@pytest.mark.parametrize(
    ("row_type", "changes", "message"),
    [
        (Demonstration, {"response": None}, 'field "response" must not be null; correct the row'),
        (Demonstration, {"response": " \n"}, 'field "response" is empty; fill it in or remove the row'),
        (Demonstration, {"prompt": ""}, 'field "prompt" is empty; fill it in or remove the row'),
        (Demonstration, {"prompt": 3}, 'field "prompt" must be a text or a list of messages, not a number'),
        (Demonstration, {"prompt": []}, "not an empty list"),
        (
            Demonstration,
            {"prompt": ANSWER},
            "the prompt's last message is the assistant's; it must be the user's",
        ),
        (Demonstration, {"prompt": [{"role": "bot", "content": "x"}]}, "message 1 .* must have a role"),
        (Demonstration, {"prompt": [{"role": "user"}]}, "content of message 1 .* must be a text, not null"),
        (Demonstration, {"response": "\ud83d"}, "half of a character"),
        (
            RankedComparison,
            {"responses": ["a"], "ranks": [1]},
            "K = 1, but a comparison needs at least 2 responses",
        ),
        (
            RankedComparison,
            {"responses": [], "ranks": []},
            "K = 0, but a comparison needs at least 2 responses",
        ),
        (RankedComparison, {"ranks": [1]}, "1 ranks for 2 responses; give one rank each"),
        (RankedComparison, {"ranks": [1, 2, 3]}, "3 ranks for 2 responses; give one rank each"),
        (RankedComparison, {"ranks": [0, 1]}, r"ranks \[0, 1\] must be whole numbers from 1"),
        (RankedComparison, {"ranks": [1.5, 1]}, "must be whole numbers from 1"),
        (RankedComparison, {"ranks": [True, 1]}, "must be whole numbers from 1"),
        (RankedComparison, {"ranks": "12"}, 'fields "responses" and "ranks" must be lists'),
        (RankedComparison, {"responses": ["a", ""]}, 'response 2 of field "responses" is empty'),
        (PromptRow, {"user": 12}, 'field "user" must be a text, not a number'),
    ],
)
def test_wrong_rows(tmp_path: Path, row_type: type[Row], changes: dict[str, Any], message: str):
    path = write(tmp_path, GOOD[row_type], GOOD[row_type] | changes)
    with pytest.raises(UserError, match=message) as error:
        read_rows(path, row_type)
    assert str(error.value).startswith(f"{path}:2: ")
    assert "Traceback" not in str(error.value) and error.value.__suppress_context__


@pytest.mark.parametrize(
    ("row_type", "record", "message"),
    [
        (
            Demonstration,
            {"prompt": "p"},
            'field "response" is missing; a row of format prompt-response needs prompt and response; these are prompts',
        ),
        (Demonstration, {"response": "p"}, 'field "prompt" is missing'),
        (
            Demonstration,
            {"messages": QUESTION},
            '"messages" must be a list of messages that ends with an assistant',
        ),
        (
            Demonstration,
            {"prompt": "p", "completion": ANSWER * 2},
            '"completion" must be a text or one assistant',
        ),
        (Demonstration, {"prompt": "p", "completion": []}, '"completion" must be a text or one assistant'),
        (
            RankedComparison,
            {"prompt": "p", "responses": ["a", "b"]},
            'field "ranks" is missing; a row of format ranked needs prompt, responses and ranks; other .*preference',
        ),
        (RankedComparison, {"prompt": "p", "chosen": "a"}, 'field "responses" is missing'),
        (RankedComparison, {"chosen": "a", "rejected": "b"}, 'field "prompt" is missing'),
        (
            RankedComparison,
            {"chosen": QUESTION + ANSWER, "rejected": QUESTION * 2 + ANSWER},
            "chosen and rejected must share all messages but the last",
        ),
        (
            PromptRow,
            {"text": "p"},
            'field "prompt" is missing; a row of format prompt needs prompt; other formats are messages, ',
        ),
        (PromptRow, ["p"], "expected a JSON object, found a list"),
        (PromptRow, '"p"', "expected a JSON object, found a text"),
        (
            PromptRow,
            '{"prompt": "p"',
            r"broken JSON \(Expecting ',' delimiter, column 15\); correct the line",
        ),
    ],
)
def test_wrong_layouts(tmp_path: Path, row_type: type[Row], record: Any, message: str):
    path = write(tmp_path, GOOD[row_type], "", record)
    with pytest.raises(UserError, match=message) as error:
        read_rows(path, row_type)
    assert str(error.value).startswith(f"{path}:3: ")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file(tmp_path: Path, name: str, content: str):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError, match=f"^{path}:1: the file is empty; it needs at least one row$"):
        read_rows(path, PromptRow)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UserError, match=f"^{tmp_path}/none.jsonl: no such file; check the path"):
        read_rows(tmp_path / "none.jsonl", PromptRow)
    with pytest.raises(UserError, match=f"^{tmp_path}: no file of rows in this folder .*; check the path$"):
        read_rows(tmp_path, PromptRow)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"prompt": "a"}\n{"prompt": "\xe9"}\n')
    with pytest.raises(UserError, match=f"^{latin}:2: not UTF-8 text; convert the file to UTF-8$"):
        read_rows(latin, PromptRow)


def test_broken_json_lists(tmp_path: Path):
    broken = write(tmp_path, '[\n {"prompt": "a"}\n {"prompt": "b"}\n]', name="broken.json")
    with pytest.raises(UserError, match=f"^{broken}:3: broken JSON .*; correct the line$"):
        read_rows(broken, PromptRow)
    single = write(tmp_path, {"prompt": "a"}, name="single.json")
    with pytest.raises(UserError, match=f"^{single}:1: a .json file must hold a list of rows; put them in"):
        read_rows(single, PromptRow)
    wrong = write(tmp_path, '[{"prompt": "a"},\n{"prompt": ""}]', name="wrong.json")
    with pytest.raises(UserError, match=f'^{wrong}:2: field "prompt" is empty'):
        read_rows(wrong, PromptRow)
