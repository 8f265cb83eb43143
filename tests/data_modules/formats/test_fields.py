"""Fields under other names, and what an error says of rows in no known layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules import PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule
from data_modules.formats.fields import renamed
from data_modules.rows import Demonstration, PromptRow, RankedComparison, Row, read_rows
from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter

PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def write(folder: Path, *records: Any, name: str = "rows.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder / name


def reason(path: Path, row_type: type[Row], **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read_rows(path, row_type, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize(
    ("record", "names", "found"),
    [
        ({"question": "q", "answer": "a"}, None, {"question": "q", "answer": "a"}),
        ({"question": "q", "id": 1}, {"prompt": "question"}, {"prompt": "q", "id": 1}),
        (
            {"prompt": "p", "response": "r"},
            {"prompt": "response", "response": "prompt"},
            {"prompt": "r", "response": "p"},
        ),
        ({"in": {"text": "q"}, "id": 1}, {"prompt": "in.text"}, {"prompt": "q", "in": {"text": "q"}, "id": 1}),
        ({"in.text": "q", "in": {"text": "x"}}, {"prompt": "in.text"}, {"prompt": "q", "in": {"text": "x"}}),
        ({"a": [{"t": "x"}, {"t": "q"}]}, {"prompt": "a.1.t"}, {"prompt": "q", "a": [{"t": "x"}, {"t": "q"}]}),
        ({"a": ["x"]}, {"prompt": "a.1"}, {"a": ["x"]}),
        ({"a": "x"}, {"prompt": "a.b.c"}, {"a": "x"}),
        ({"prompt": "p", "text": None}, {"prompt": "text"}, {"prompt": None}),
        ({"chat": "[1]", "q": "[1]"}, {"messages": "chat", "prompt": "q"}, {"messages": [1], "prompt": "[1]"}),
    ],
)
def test_renamed(record: dict[str, Any], names: dict[str, str] | None, found: dict[str, Any]) -> None:
    before = json.dumps(record)
    assert renamed(record, names) == found
    assert json.dumps(record) == before


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_question_and_answer(tmp_path: Path, prompter: Prompter, name: str) -> None:
    records = [{"question": letter, "answer": "b", "id": letter} for letter in "abcd"]
    path = tmp_path / name
    if name == "rows.parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif name == "rows.csv":
        path.write_text("question,answer,id\n" + "".join(f"{','.join(record.values())}\n" for record in records))
    else:
        write(tmp_path, *records)
    data = PromptResponseDataModule(str(path), fields={"prompt": "question", "response": "answer"})
    data.prompter = prompter
    data.setup()
    rows = sorted([*data.train_rows, *data.validation_rows], key=lambda row: str(row.prompt))
    assert rows == [Demonstration(letter, "b", extra={"id": letter}) for letter in "abcd"]


def test_every_data_module_takes_names(tmp_path: Path, prompter: Prompter) -> None:
    path = write(tmp_path, {"q": "a", "good": "b", "bad": "c"}, {"q": "d", "good": "b", "bad": "c"})
    demonstrations = write(tmp_path, {"prompt": "a", "response": "b"}, name="demonstrations.jsonl")
    ranked = RankedComparisonDataModule(
        str(path),
        validation_path=str(path),
        demonstrations_path=str(demonstrations),
        format="preference",  # of the comparisons: the demonstrations have their own
        fields={"prompt": "q", "chosen": "good", "rejected": "bad"},
    )
    prompts = PromptDataModule(str(path), validation_share=0, fields={"prompt": "q", "use_case": "good"})
    for data in (ranked, prompts):
        data.prompter = prompter
        data.setup()
    assert ranked.train_rows[0] == RankedComparison("a", ["b", "c"], [1, 2])
    assert ranked.validation_rows[1].prompt == "d"
    assert prompts.train_rows[0] == PromptRow("a", use_case="b", extra={"bad": "c"})


def test_other_names_make_other_tables(tmp_path: Path, prompter: Prompter) -> None:
    path = write(tmp_path, {"q": "a", "p": "b"}, {"q": "a", "p": "b"})
    for name in ("q", "p", "q"):
        data = PromptDataModule(str(path), validation_share=0, fields={"prompt": name})
        data.prompter = prompter
        data.setup()
        assert data.train_rows[0].prompt == ("a" if name == "q" else "b")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"question": "prompt"}, "--data.fields: question is no field of a layout; the name in the file comes second"),
        ({"prompt": ""}, "--data.fields: {'prompt': ''} is no mapping of names"),
        ({"prompt": 3}, "--data.fields: {'prompt': 3} is no mapping of names"),
        (["prompt"], "--data.fields: ['prompt'] is no mapping of names"),
    ],
)
def test_names_that_are_not_possible(names: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        PromptDataModule("rows.jsonl", fields=names)
    assert str(caught.value).startswith(message)


def test_a_name_that_no_row_has(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "a", "answer": "b"})
    assert reason(path, Demonstration, fields={"prompt": "quetion", "response": "answer"}) == (
        f'--data.fields: {path} has no field "quetion" (for prompt); its first row has question and answer'
    )


def test_a_row_of_no_layout_says_what_it_has_and_how_to_name_it(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "a", "answer": "b"})
    assert reason(path, Demonstration) == (
        ':1: field "prompt" is missing; a row of format prompt-response needs prompt and response; other formats are '
        "prompt-completion (prompt, completion), messages, sharegpt (conversations), alpaca (instruction, output), "
        "dolly (instruction, response); the row has question and answer; name its fields with "
        "--data.fields='{prompt: ..., response: ...}'"
    )
    assert reason(path, PromptRow, layout="prompt") == (
        ':1: field "prompt" is missing; a row of format prompt needs prompt; the row has question and answer; name its '
        "fields with --data.fields='{prompt: ...}'"
    )
    many = write(tmp_path, {f"field{number}": "a" for number in range(99)})
    assert "the row has field0, field1, " in reason(many, Demonstration) and "field13" not in reason(
        many, Demonstration
    )


@pytest.mark.parametrize(
    ("record", "row_type", "advice"),
    [
        (PAIR, Demonstration, "these are comparisons (format preference), for `lit-instruct rm`"),
        ({"chosen": "x a", "rejected": "x b"}, PromptRow, "these are comparisons (format preference), for `lit-"),
        ({"prompt": "a", "responses": ["b"], "ranks": [1]}, Demonstration, "comparisons (format ranked), for `lit-in"),
        ({"prompt": "a", "response": "b"}, RankedComparison, "demonstrations (format prompt-response), for `lit-ins"),
        ({"instruction": "a", "output": "b"}, RankedComparison, "these are demonstrations (format alpaca), for `lit-"),
        ({"instruction": "a", "output": "b"}, PromptRow, "these are demonstrations (format alpaca), for `lit-instru"),
        ({"prompt": "a", "user": "u"}, Demonstration, "these are prompts (format prompt), for `lit-instruct ppo`"),
        ({"prompt": "a"}, RankedComparison, "these are prompts (format prompt), for `lit-instruct ppo`"),
    ],
)
def test_rows_of_another_stage_name_it(
    tmp_path: Path, record: dict[str, Any], row_type: type[Row], advice: str
) -> None:
    assert advice in reason(write(tmp_path, record), row_type)


def test_scored_rows_under_other_names(tmp_path: Path) -> None:
    records = [{"task": {"text": "a"}, "answer": answer, "votes": votes} for answer, votes in (("b", 1), ("c", 5))]
    names = {"prompt": "task.text", "response": "answer", "score": "votes"}
    (row,) = read_rows(write(tmp_path, *records), RankedComparison, fields=names)
    assert (row.prompt, row.responses, row.ranks) == ("a", ["b", "c"], [2, 1])
