"""Right and wrong answers as comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evidence import right_answers, sources
from evidence.right_answers import comparisons, natural_questions, piqa, write

PIQA = [
    {"question": " Make a pillow. ", "options": "A. Use a tin can.\nB. Use a bag. ", "answer": "B. Use a bag. "},
    {"question": "Find the value of A. and B.", "options": "A. Look.\nB. Do not A. look", "answer": "A. Look."},
    {"question": "Two alike", "options": "A. Same.\nB. Same.", "answer": "A. Same."},
    {"question": "One option", "options": "A. Alone.", "answer": "A. Alone."},
]
NQ = [
    {"question": "who sings it", "answer": ["Meghan"], "def_incorrect_predictions": ["Adele"]},
    {
        "question": "where was it held",
        "answer": ["Albuquerque"],
        "def_correct_predictions": ["albuquerque, new mexico"],
        "poss_correct_predictions": ["the south"],
        "def_incorrect_predictions": ["Bristol", "London"],
    },
    {"question": "nobody judged it", "answer": ["x"]},
    {"question": "all were right", "answer": ["x"], "def_correct_predictions": ["x"], "def_incorrect_predictions": []},
]


def test_options_of_piqa() -> None:
    assert list(piqa(PIQA)) == [
        ("Make a pillow.", ["Use a bag."], ["Use a tin can."]),
        ("Find the value of A. and B.", ["Look."], ["Do not A. look"]),
    ]


def test_answers_that_people_judged() -> None:
    assert list(natural_questions(NQ)) == [
        ("Who sings it?", ["Meghan"], ["Adele"]),
        ("Where was it held?", ["Albuquerque", "albuquerque, new mexico"], ["Bristol", "London"]),
    ]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like that of the package, with 20 questions of each kind."""
    folder = tmp_path / "package"
    rows = {
        "piqa": [PIQA[0] | {"question": f"Goal {n}"} for n in range(20)],
        "nq": [NQ[1] | {"question": f"question {n}"} for n in range(20)],
    }
    for name, (file, _) in right_answers.READERS.items():
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows[name]))
    monkeypatch.setattr(sources, "unpacked", lambda package: folder)
    monkeypatch.setattr(right_answers, "HELD_OUT", 5)
    return folder


def test_a_comparison_has_one_right_and_one_wrong_answer_in_random_order(package: Path) -> None:
    for name, right in (("piqa", {"Use a bag."}), ("nq", {"Albuquerque", "albuquerque, new mexico"})):
        made = comparisons(name, package)
        assert len(made) == 20 and made == comparisons(name, package)
        assert {row["responses"][row["ranks"].index(1)] for row in made} == right
        assert {tuple(row["ranks"]) for row in made} == {(1, 2), (2, 1)}


def test_no_question_is_in_both_parts(package: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers"
    write(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "nq_test.jsonl",
        "nq_training.jsonl",
        "piqa_test.jsonl",
        "piqa_training.jsonl",
    ]
    for name in right_answers.READERS:
        test, training = (
            {json.loads(line)["prompt"] for line in (out / f"{name}_{part}.jsonl").read_text().splitlines()}
            for part in ("test", "training")
        )
        assert (len(test), len(training)) == (5, 15) and not test & training
    (out / "nq_test.jsonl").write_text("kept\n")
    write(out)
    assert (out / "nq_test.jsonl").read_text() == "kept\n"
