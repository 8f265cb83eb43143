"""Task files of the user: what is read, and what is refused because it would run code."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_instruct.errors import UserError
from lit_instruct.evaluation.tasks.files import is_file, question_rows, task_file

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: q.jsonl}
test_split: train
output_type: multiple_choice
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(TASK)
    return path


def test_names_with_these_suffixes_are_files() -> None:
    assert [is_file(name) for name in ("piqa", "a/b.yaml", "b.yml", "c.jsonl", "c.py")] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_file_includes_others_and_its_own_fields_win(task: Path) -> None:
    other = task.with_name("other.yaml")
    other.write_text("include: mine.yaml\ntask: other\n")
    config = task_file(other)
    assert config["task"] == "other" and config["doc_to_target"] == "gold" and "include" not in config


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("doc_to_text: query", "doc_to_text: !function utils.text", "mine.yaml:7: !function names Python code"),
        ("dataset_path: json", "dataset_path: pandas", "dataset_path: pandas; give a hub id"),
        ("dataset_path: json", "", "dataset_path: missing"),
        ("task: mine", "", "give it a name with `task: my_task`"),
        ("task: mine", "include: mine.yaml", "this file includes itself"),
        ("task: mine", "task: [", "not YAML"),
        ("task: mine", "include: none.yaml", "none.yaml: No such file"),
    ],
)
def test_refused(task: Path, old: str, new: str, said: str) -> None:
    task.write_text(TASK.replace(old, new))
    with pytest.raises(UserError, match=said.replace("[", r"\[")):
        task_file(task)


def test_python_code_in_an_included_file_is_refused(task: Path) -> None:
    task.with_name("base.yaml").write_text("process_docs: !function utils.docs\n")
    task.write_text(TASK + "include: base.yaml\n")
    with pytest.raises(UserError, match=r"base.yaml:1: !function"):
        task_file(task)


def test_rows_are_questions_or_texts(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "a?", "choices": ["b", "c"], "gold": 1, "more": 2}\n\n')
    assert question_rows(path) == [{"query": "a?", "choices": ["b", "c"], "gold": 1}]
    path.write_text('{"text": "a b"}\n')
    assert question_rows(path) == [{"text": "a b"}]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "no questions in it"),
        ("x", r"q.jsonl:1: broken JSON"),
        ('{"query": "a?", "choices": ["b", "c"]}', r"q.jsonl:1: no answer: gold is None"),
        ('{"query": "a?", "choices": ["b", "c"], "gold": -1}', "no answer: gold is -1"),
        ('{"query": "a?", "choices": ["b", "c"], "gold": 2}', "no answer: gold is 2"),
        ('{"query": "a?", "choices": ["b", "c"], "gold": true}', "no answer: gold is True"),
        ('{"query": "a?", "choices": ["b"], "gold": 0}', "no question with choices"),
        ('{"query": "a?", "choices": ["b", " "], "gold": 0}', "no question with choices"),
        ('{"text": " "}', "no text"),
        ('{"text": "a"}\n{"query": "a?", "choices": ["b", "c"], "gold": 0}', r"q.jsonl:2: no text"),
    ],
)
def test_bad_rows(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "q.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=said):
        question_rows(tmp_path / "q.jsonl")
