"""Rankings as rows of other programs, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_modules.rows import RankedComparison, read_rows
from lit_instruct.errors import DataError
from lit_instruct.labeling.exports import Format, rows_of
from lit_instruct.labeling.rankings import Ranked
from lit_instruct.labeling.tasks import Written
from lit_instruct.prompting import Prompt


def _ranked(labeler: str, ranks: list[int], prompt: Prompt = "Hi", **more: Any) -> Ranked:
    given = {"quality": None, "flags": None, "repeated": False, "columns": {}} | more
    texts = [Written(f"text {number}", "runs/x", "abc") for number in range(len(ranks))]
    return Ranked(1, labeler, ranks, prompt, texts, seconds=2.0, at="", **given)


FOUND = [_ranked("Ada", [2, 1, 1]), _ranked("Ben", [1, 2, 3]), _ranked("Ada", [3, 2, 1], repeated=True)]
MESSAGES: Prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def _read(tmp_path: Path, layout: Format, found: list[Ranked] = FOUND) -> list[RankedComparison]:
    path = tmp_path / "out.json"
    path.write_text(json.dumps(rows_of(found, layout)))
    return read_rows(path, RankedComparison, layout="auto")


@pytest.mark.parametrize("layout", ["ranked", "nemo-rl", "argilla", "label-studio"])
def test_what_is_written_is_read_again(tmp_path: Path, layout: Format) -> None:
    """A repetition by the same labeler is left out."""
    rows = _read(tmp_path, layout)
    found = [dict(zip(row.responses, row.ranks, strict=True)) for row in rows]
    assert found == [{"text 0": 2, "text 1": 1, "text 2": 1}, {"text 0": 1, "text 1": 2, "text 2": 3}]
    assert [row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"] for row in rows] == ["Hi", "Hi"]
    assert [row.extra["labeler"] for row in rows] == ["Ada", "Ben"]


def test_our_rows_keep_quality_flags_and_writers() -> None:
    full = _ranked("Ada", [1, 2], quality=[7, 2], flags=[[], ["harmful advice"]], columns={"use_case": "chat"})
    part = _ranked("Ben", [1, 2], quality=[7, None])
    first, second = rows_of([full, part], "ranked")
    assert first == {
        "use_case": "chat",
        "prompt": "Hi",
        "responses": ["text 0", "text 1"],
        "ranks": [1, 2],
        "scores": [7, 2],
        "quality": [7, 2],
        "flags": [[], ["harmful advice"]],
        "seconds": 2.0,
        "runs": ["runs/x", "runs/x"],
        "versions": ["abc", "abc"],
        "labeler": "Ada",
    }
    assert "scores" not in second and second["quality"] == [7, None]


def test_pairs_of_trl_leave_out_ties(tmp_path: Path) -> None:
    rows = rows_of(FOUND[:1], "trl")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("text 1", "text 0"), ("text 2", "text 0")]
    (pair,) = _read(tmp_path, "trl", [_ranked("Ada", [2, 1], MESSAGES)])
    assert (pair.prompt, pair.responses, pair.ranks) == (MESSAGES, ["text 1", "text 0"], [1, 2])


def test_conversations_stay_messages_where_the_layout_has_any() -> None:
    one = _ranked("Ada", [1, 2], MESSAGES)
    assert rows_of([one], "nemo-rl")[0]["context"] == MESSAGES
    assert rows_of([one], "argilla")[0]["fields"]["prompt"] == "system: Be brief.\n\nuser: Hi"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"fields": {"prompt": "a", "r": "b"}, "responses": []}, "nobody has ranked this record"),
        (
            {
                "fields": {"prompt": "a"},
                "responses": [{"values": {"q": {"value": [{"rank": 1, "value": "x"}, {"rank": 2, "value": "y"}]}}}],
            },
            "names 'x', which is not in",
        ),
        ({"data": {"prompt": "a"}, "annotations": []}, 'must have a list "items"'),
        (
            {
                "data": {"prompt": "a", "items": [{"id": "1", "body": "b"}]},
                "annotations": [{"result": [{"type": "ranker", "value": {"ranker": ["1", "9"]}}]}],
            },
            "names '9', which is not in",
        ),
        (
            {
                "data": {"prompt": "a", "items": [{"id": "1", "body": "b"}, {"id": "2", "body": "c"}]},
                "annotations": [{"result": [{"type": "ranker", "value": {"ranker": ["1", "2", "1"]}}]}],
            },
            "names '1', twice",
        ),
        ({"data": {"prompt": "a", "items": []}, "annotations": [{"result": 3}]}, "nobody has ranked this record"),
        (
            {
                "data": {"items": [{"id": "1", "body": "b"}, {"id": "2", "body": "c"}]},
                "annotations": [{"result": [{"type": "ranker", "value": {"ranker": ["1", "2"]}}]}],
            },
            "no prompt",
        ),
    ],
)
def test_a_damaged_record_is_told(tmp_path: Path, record: dict[str, Any], said: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=said):
        read_rows(path, RankedComparison)


def test_a_list_of_label_studio_is_an_order_without_ties(tmp_path: Path) -> None:
    record = {
        "data": {"prompt": "a", "items": [{"id": "x", "title": "b"}, {"id": "y", "title": "c"}]},
        "annotations": [
            {
                "completed_by": {"email": "ada@example.org"},
                "result": [{"type": "ranker", "value": {"ranker": ["y", "x"]}}],
            },
            {"was_cancelled": True, "result": [{"type": "ranker", "value": {"ranker": ["x", "y"]}}]},
        ],
    }
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (row,) = read_rows(path, RankedComparison)
    assert (row.responses, row.ranks, row.extra["labeler"]) == (["b", "c"], [2, 1], "ada@example.org")
