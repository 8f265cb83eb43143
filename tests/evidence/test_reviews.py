"""Critics' sentences as rows of the three stages: labels are the critics', and no film is in two parts."""

from __future__ import annotations

import bz2
import json
from itertools import product
from pathlib import Path

import pytest

from evidence.reviews import KINDS, Review, read, rows, split, write
from lit_instruct.errors import UserError

FILMS = [f"Film {letter}{letter.lower()}" for letter in "ABCDEFGHIJKLMNOPQRST"]
REVIEWS = [
    Review(film, fresh, f"Sentence {number} about {film} is {'praise' if fresh else 'blame'}.")
    for film, fresh, number in product(FILMS, (True, False), range(6))
]


def table(folder: Path, *lines: str, columns: str = "category,text,movie_name,has_plot_and_reviews") -> Path:
    path = folder / "reviews.csv.bz2"
    path.write_bytes(bz2.compress("\n".join([columns, *lines]).encode()))
    return path


def test_whole_sentences_of_ordinary_length_are_kept_once(tmp_path: Path) -> None:
    good = "A film that one remembers for a long time &amp; gladly."
    lines = [
        f'fresh,"{good}",the_sum_of_all_fears,True',
        f'rotten,"{good}",another,True',  # said twice: the first label counts
        f'plot,"{good.replace("film", "plot")}",the_sum_of_all_fears,True',
        'rotten,"Too short.",abandon,True',
        'rotten,"begins in the middle of a sentence that somebody wrote about it.",abandon,True',
        'rotten,"A sentence that somebody wrote about it and that is cut in the",abandon,True',
        'rotten,"A sentence with a letter, é, that is not in ASCII, whatever it may say.",abandon,True',
        f'rotten,"{"Too long, " * 30}.",abandon,True',
        'rotten,"  A sentence that somebody wrote about it, with blanks around it.\n",abandon,True',
    ]
    assert read(table(tmp_path, *lines)) == [
        Review("The Sum Of All Fears", True, "A film that one remembers for a long time & gladly."),
        Review("Abandon", False, "A sentence that somebody wrote about it, with blanks around it."),
    ]


def test_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reviews.csv.bz2: a table of reviews has the columns category, movie_name$"):
        read(table(tmp_path, "x", columns="text"))


def test_parts_share_no_film_and_leave_out_no_review() -> None:
    parts = split(REVIEWS)
    films = {part: {review.film for review in found} for part, found in parts.items()}
    assert {part: len(found) for part, found in films.items()} == {
        "training": 10,
        "validation": 2,
        "test": 4,
        "judge": 4,
    }
    assert sum(map(len, films.values())) == len(set().union(*films.values()))
    assert sorted(review for found in parts.values() for review in found) == sorted(REVIEWS)
    assert split(reversed(REVIEWS)).keys() == parts.keys()


def test_rows_follow_the_critics() -> None:
    part = split(REVIEWS)["training"]
    made = rows(part)
    label = {review.sentence: review.fresh for review in REVIEWS}
    shown = [row["response"] for row in made["demonstrations"]]
    assert len(shown) == 30 and sum(label[sentence] for sentence in shown) == 15
    assert made["ranked"]
    for row in made["ranked"]:
        assert [rank == 1 for rank in row["ranks"]] == [label[sentence] for sentence in row["responses"]]
        assert set(row["ranks"]) == {1, 2} and len(row["ranks"]) <= 4
        films = [film for film in FILMS if film in row["prompt"]]
        assert len(films) == 1 and all(films[0] in sentence for sentence in row["responses"])
        assert not set(row["responses"]) & set(shown)
    compared = [sentence for row in made["ranked"] for sentence in row["responses"]]
    assert len(compared) == len(set(compared))


def test_the_best_response_has_no_fixed_place() -> None:
    places = {tuple(row["ranks"]) for row in rows(split(REVIEWS)["training"])["ranked"]}
    assert {1, 2} == {ranks[0] for ranks in places}


def test_prompts_name_each_film_in_every_wording() -> None:
    part = split(REVIEWS)["test"]
    prompts = rows(part)["prompts"]
    assert len(prompts) == 12 == len({row["prompt"] for row in prompts})
    assert all(row["film"] in row["prompt"] for row in prompts)
    assert rows(part) == rows(part)


def test_files_hold_the_rows_and_held_out_films_one_prompt_each(tmp_path: Path) -> None:
    parts = split(REVIEWS)
    write(tmp_path, parts)
    names = [f"{kind}_{part}.jsonl" for kind in KINDS for part in ("training", "validation", "test")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    found = {name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in names}
    assert found["ranked_training.jsonl"] == rows(parts["training"])["ranked"]
    assert len(found["prompts_training.jsonl"]) == 30
    assert sorted(row["film"] for row in found["prompts_test.jsonl"]) == sorted({row.film for row in parts["test"]})
    (tmp_path / names[0]).write_text("kept\n")
    write(tmp_path, parts)
    assert (tmp_path / names[0]).read_text() == "kept\n"
