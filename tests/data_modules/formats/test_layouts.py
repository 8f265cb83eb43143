"""Every public layout, in every kind of file, becomes the row it stands for."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.formats import COMPARISON_LAYOUTS, DEMONSTRATION_LAYOUTS, PROMPT_LAYOUTS
from data_modules.rows import Demonstration, PromptRow, RankedComparison, Row, detect_layouts, read_rows
from lit_instruct.errors import DataError, UserError
from tests.data_modules.layouts import CASES, NAMES, TREE, assistant, user

SUFFIXES = [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz"]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    """Writes records in the way that the name's ending says."""
    kind = path.name.removeprefix("rows").removesuffix(".gz")
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
        return str(path)
    file = io.StringIO(newline="")
    if kind == ".csv":
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        for record in records:
            writer.writerow({n: v if v is None or isinstance(v, str) else json.dumps(v) for n, v in record.items()})
    elif kind == ".json":
        json.dump(records, file, indent=1)
    else:
        file.writelines(json.dumps(record) + "\n" for record in records)
    content = file.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def loosened(row: Row) -> Row:
    """A row whose further fields compare equal however a file spells nothing, numbers and truth values."""
    row.extra = {name: str(value) for name, value in row.extra.items() if value not in (None, "null")}
    return row


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("row_type", "layout", "record", "row"), CASES, ids=NAMES)
def test_layout(tmp_path: Path, row_type: type[Row], layout: str, record: dict[str, Any], row: Row, suffix: str):
    if suffix.startswith(".csv") and layout == "oasst-trees":
        pytest.skip("a tree is no table")
    path = write(tmp_path / f"rows{suffix}", [record, record])
    rows = read_rows(path, row_type)
    assert read_rows(path, row_type, layout=layout) == rows
    assert [loosened(one) for one in rows] == [loosened(row), loosened(row)]
    assert [one.name for one in detect_layouts(path, row_type)] == [layout]


def test_every_layout_has_a_case():
    known = {layout.name for layout in (*DEMONSTRATION_LAYOUTS, *COMPARISON_LAYOUTS, *PROMPT_LAYOUTS)}
    assert known - {layout for _, layout, _, _ in CASES} == {"oasst-messages", "scored-rows"}


def test_records_are_left_alone():
    for row_type, name, record, _ in CASES:
        before = json.dumps(record)
        next(layout for layout in row_type.layouts if layout.name == name).rows(record)
        assert json.dumps(record) == before


def test_a_format_can_be_forced(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "p", "response": "r", "messages": [user("a?"), assistant("b.")]}])
    assert read_rows(path, PromptRow)[0].prompt == "p"
    assert read_rows(path, PromptRow, layout="messages")[0].prompt == [user("a?")]
    with pytest.raises(DataError, match='rows.jsonl:1: field "conversation" is missing; a row of format conversation'):
        read_rows(path, PromptRow, layout="conversation")
    with pytest.raises(UserError, match="^--data.format: alpaca is not possible here; choose one of auto, prompt, "):
        read_rows(path, PromptRow, layout="alpaca")


def test_a_conversation_before_two_messages(tmp_path: Path):
    """LLaMA-Factory's preferences."""
    record = {
        "conversations": [{"from": "human", "value": "a?"}],
        "chosen": {"from": "gpt", "value": "It is b."},
        "rejected": {"from": "gpt", "value": "It is c."},
    }
    (row,) = read_rows(write(tmp_path / "rows.jsonl", [record]), RankedComparison)
    assert (row.prompt, row.responses, row.ranks) == ([user("a?")], ["It is b.", "It is c."], [1, 2])


@pytest.mark.parametrize("history", ["a", [["a"]], [["a", 3]], [["a", ""]], {"a": "b"}])
def test_a_history_that_is_no_list_of_pairs(tmp_path: Path, history: Any):
    record = {"instruction": "a", "output": "b", "history": history}
    with pytest.raises(DataError, match='of field "history"|field "history" must be a list of pairs'):
        read_rows(write(tmp_path / "rows.jsonl", [record]), Demonstration)


def test_a_call_of_a_tool_is_refused(tmp_path: Path):
    call = {**assistant("b."), "tool_calls": [{"function": {"name": "f"}}]}
    path = write(tmp_path / "rows.jsonl", [{"messages": [user("a?"), {**assistant("b."), "tool_calls": None}]}])
    assert read_rows(path, Demonstration)[0].response == "b."
    path = write(tmp_path / "rows.jsonl", [{"messages": [user("a?"), call]}])
    with pytest.raises(DataError, match='rows.jsonl:1: message 2 of field "messages" calls a tool'):
        read_rows(path, Demonstration)


def test_messages_of_several_notations_in_one_parquet_file(tmp_path: Path):
    """Each message has all fields of the file, null where it has another notation."""
    talks = [[user("a?"), assistant("b.")], [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b."}]]
    unified = [
        [{**dict.fromkeys(("role", "content", "from", "value")), **message} for message in talk] for talk in talks
    ]
    path = write(tmp_path / "rows.parquet", [{"messages": talk} for talk in unified])
    assert read_rows(path, Demonstration) == [Demonstration([user("a?")], "b.")] * 2


def test_null_columns_of_several_layouts_in_one_parquet_file(tmp_path: Path):
    records = [
        {"prompt": "a?", "response": "b.", "messages": None, "system": None, "history": None},
        {"prompt": None, "response": None, "messages": [user("a?"), assistant("b.")], "system": None, "history": None},
    ]
    rows = read_rows(write(tmp_path / "rows.parquet", records), Demonstration)
    assert [(row.prompt, row.response) for row in rows] == [("a?", "b."), ([user("a?")], "b.")]


HELPSTEER = [
    {"prompt": "a?", "response": "b", "helpfulness": 3, "verbosity": 1, "split": "x"},
    {"prompt": "a?", "response": "c", "helpfulness": 4, "verbosity": 2, "split": "x"},
    {"prompt": "d?", "response": "e", "helpfulness": 2, "verbosity": 1, "split": "x"},
    {"prompt": "d?", "response": "f", "helpfulness": 2, "verbosity": 1, "split": "x"},
    {"prompt": "d?", "response": "g", "helpfulness": 0, "verbosity": 1, "split": "x"},
]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_scored_responses_in_rows_of_their_own(tmp_path: Path, suffix: str):
    path = write(tmp_path / f"rows{suffix}", HELPSTEER)
    rows = read_rows(path, RankedComparison)
    assert [(row.prompt, row.responses, row.ranks) for row in rows] == [
        ("a?", ["b", "c"], [2, 1]),
        ("d?", ["e", "f", "g"], [1, 1, 2]),
    ]
    assert rows[0].extra == {"split": "x"}
    assert [str(one) for one in rows[1].extra.values()] == ["1", "x"]  # what all rows of the prompt share
    assert [one.name for one in detect_layouts(path, RankedComparison)] == ["scored-rows"]
    assert [row.response for row in read_rows(path, Demonstration)] == [*"bcefg"]


def test_scored_responses_that_are_not_together(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", [HELPSTEER[0], HELPSTEER[2], HELPSTEER[1]])
    with pytest.raises(DataError, match="rows.jsonl:1: only one scored response to this prompt; .* next to each other"):
        read_rows(path, RankedComparison)
    path = write(tmp_path / "rows.jsonl", [HELPSTEER[0], {**HELPSTEER[1], "helpfulness": "good"}])
    with pytest.raises(DataError, match='"helpfulness" must be a number, not a text'):
        read_rows(path, RankedComparison)
    path = write(tmp_path / "rows.jsonl", [HELPSTEER[0], {**HELPSTEER[1], "system": "Be brief."}])
    with pytest.raises(DataError, match='several messages in field "system"'):
        read_rows(path, RankedComparison)


def flat(node: dict[str, Any], parent: str | None) -> list[dict[str, Any]]:
    own = {name: value for name, value in node.items() if name != "replies"}
    rows = [{"message_tree_id": "t", "parent_id": parent, "rank": None, **own}]
    return rows + [row for reply in node["replies"] for row in flat(reply, node["text"])]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_table_of_messages_is_read_as_its_trees(tmp_path: Path, suffix: str):
    second = [{**row, "message_tree_id": "u"} for row in flat(TREE, None)]
    path = write(tmp_path / f"rows{suffix}", flat(TREE, None) + second)
    rows = read_rows(path, RankedComparison)
    assert [row.extra for row in rows] == [{"message_tree_id": tree, "lang": "en"} for tree in "tu"]
    for row in rows:
        assert (row.prompt, row.responses, row.ranks) == ([user("a?")], ["b.", "c."], [2, 1])
    assert [row.where.rpartition(":")[2] for row in rows] != ["", ""] and rows[0].where != rows[1].where


def test_a_message_whose_parent_is_elsewhere(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", flat(TREE, None)[1:])
    with pytest.raises(DataError, match="rows.jsonl:1: the parent 'a\\?' of message 'b.' is not among the rows"):
        read_rows(path, RankedComparison)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1.0]}, "1 ranks for 2 responses"),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1.0, "x"]}, '"scores" must be a number, not a text'),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1.0, float("nan")]}, '"scores" must be a number, not nan'),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [True, 1]}, '"scores" must be a number, not a truth value'),
        ({"prompt": "p", "responses": ["a", "a"], "ranks": [1, 2]}, "responses 1 and 2 are identical, yet ranked 1"),
        ({"instruction": "a", "completions": [{"response": "r"}]}, '"overall_score" is missing in item 1 of field'),
        ({"instruction": "a", "completions": "r"}, 'field "completions" must be a list of objects'),
        ({"prompt": "p", "answers": [{"answer": "r", "rank": 1}]}, "K = 1, but a comparison needs at least 2"),
        ({"info": {}, "summaries": [], "choice": 0}, 'field "choice" must be the number of a summary'),
        ({"info": {}, "summaries": [{"text": "a"}], "choice": 0}, 'field "info" must be an object with a post or'),
        ({"context": [user("a")], "completions": [{"rank": 1, "completion": []}]}, "must be a text or one assistant"),
        ({"chosen": "The sky", "rejected": "A sky"}, "do not begin with the same words"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}, "must share all"),
        ({"prompt": "p", "chosen": None, "rejected": "b"}, 'field "responses" is missing'),
        ({"prompt": {"text": "a", "role": "teacher"}}, 'must have a field "role", prompter or assistant'),
        ({"prompt": {"text": "a", "role": "prompter", "replies": 3}}, 'field "replies" must be a list, not a number'),
        ({"question": {"full_text": 3}, "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": 0}, '"prompt" must'),
    ],
)
def test_wrong_comparisons(tmp_path: Path, record: dict[str, Any], reason: str):
    path = write(tmp_path / "rows.jsonl", [record])
    with pytest.raises(DataError) as error:
        read_rows(path, RankedComparison)
    assert reason in str(error.value) and str(error.value).startswith(f"{path}:1: ")
