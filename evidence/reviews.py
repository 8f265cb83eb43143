"""Critics' sentences about films as demonstrations, comparisons and prompts for the three stages.

Each sentence has its critic's own label: fresh (recommends the film) or rotten. Films are split into four parts, so
that nothing that is measured, nor the judge that measures it, has seen a film that a model was trained on.
"""

from __future__ import annotations

import bz2
import csv
import html
import json
import random
import re
import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from evidence import sources
from lit_instruct.errors import UserError
from lit_instruct.files import replacing_files

SHARES = {"training": 0.5, "validation": 0.1, "test": 0.2, "judge": 0.2}
"""Shares of the films."""
TRAINED_OR_MEASURED = ("training", "validation", "test")
KINDS = ("demonstrations", "ranked", "prompts")
WORDINGS = (
    "Write one sentence of a review of the film {}.",
    "What did a critic say about the film {}? One sentence.",
    "Review the film {} in a sentence.",
)
DEMONSTRATIONS = 300
"""Most demonstrations with each label; the other sentences of a film are compared."""
OF_EACH = 2
"""Most sentences of each label in a comparison."""
SENTENCE = re.compile(r"""[A-Z"'].*[.!?]"?""")
LENGTHS = range(40, 221)
"""Lengths in characters of the sentences that are kept."""


class Review(NamedTuple):
    """A sentence of a review."""

    film: str
    fresh: bool
    sentence: str


def read(path: Path) -> list[Review]:
    """Reads the packaged table of reviews; keeps whole sentences of ordinary length in ASCII, each once.

    Raises:
        UserError: it has other columns than category, text and movie_name.
    """
    with bz2.open(path, "rt", encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        if missing := {"category", "text", "movie_name"} - set(table.fieldnames or ()):
            raise UserError(f"{path}: a table of reviews has the columns {', '.join(sorted(missing))}")
        reviews: dict[str, Review] = {}
        for row in table:
            sentence = html.unescape(row["text"]).strip()
            if row["category"] in ("fresh", "rotten") and _is_kept(sentence):
                film = string.capwords(row["movie_name"].replace("_", " "))
                reviews.setdefault(sentence, Review(film, row["category"] == "fresh", sentence))
    return list(reviews.values())


def _is_kept(sentence: str) -> bool:
    return sentence.isascii() and len(sentence) in LENGTHS and SENTENCE.fullmatch(sentence) is not None


def split(reviews: Iterable[Review]) -> dict[str, list[Review]]:
    """Returns the reviews of each part of `SHARES`, in random order; no film is in two parts."""
    by_film = defaultdict(list)
    for review in reviews:
        by_film[review.film].append(review)
    draw = random.Random(0)
    films = sorted(by_film)
    draw.shuffle(films)
    parts, start = {}, 0.0
    for part, share in SHARES.items():
        chosen = films[round(start * len(films)) : round((start + share) * len(films))]
        parts[part] = [review for film in chosen for review in by_film[film]]
        draw.shuffle(parts[part])
        start += share
    return parts


def rows(reviews: Sequence[Review], seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Returns rows of demonstrations, comparisons and prompts from the reviews of one part.

    A demonstration is a sentence; half of them are fresh. A comparison has up to two fresh sentences, which rank
    first, and up to two rotten ones about the same film, none of which is a demonstration. Prompts name each film in
    every wording.

    Args:
        reviews: of one part, in random order.
        seed: of the wordings and of the order of the rows.
    """
    draw = random.Random(seed)
    shown = _balanced(reviews)
    demonstrations = [
        {"prompt": draw.choice(WORDINGS).format(review.film), "response": review.sentence} for review in shown
    ]
    compared = list(_comparisons(reviews, {review.sentence for review in shown}, draw))
    films = sorted({review.film for review in reviews})
    prompts = [{"prompt": wording.format(film), "film": film} for wording in WORDINGS for film in films]
    for made in (demonstrations, compared, prompts):
        draw.shuffle(made)
    return {"demonstrations": demonstrations, "ranked": compared, "prompts": prompts}


def _balanced(reviews: Sequence[Review]) -> list[Review]:
    """As many fresh as rotten reviews, at most a quarter of all and no more than `DEMONSTRATIONS` of each label."""
    labels = [[review for review in reviews if review.fresh is fresh] for fresh in (True, False)]
    n = min(DEMONSTRATIONS, *(len(label) // 4 for label in labels))
    return [review for label in labels for review in label[:n]]


def _comparisons(reviews: Sequence[Review], used: set[str], draw: random.Random) -> Iterator[dict[str, Any]]:
    by_film: dict[str, dict[bool, list[str]]] = defaultdict(lambda: {True: [], False: []})
    for review in reviews:
        if review.sentence not in used:
            by_film[review.film][review.fresh].append(review.sentence)
    for film, labels in sorted(by_film.items()):
        for start in range(0, min(map(len, labels.values())), OF_EACH):
            ranked = [(text, 1 if fresh else 2) for fresh in labels for text in labels[fresh][start : start + OF_EACH]]
            draw.shuffle(ranked)
            yield {
                "prompt": draw.choice(WORDINGS).format(film),
                "responses": [text for text, _ in ranked],
                "ranks": [rank for _, rank in ranked],
            }


def write(folder: Path, parts: Mapping[str, Sequence[Review]]) -> None:
    """Writes the rows of each part but the judge's as <kind>_<part>.jsonl, unless they are there.

    Held-out films have one prompt each, in a wording drawn by chance.
    """
    if all((folder / f"{kind}_{part}.jsonl").is_file() for kind in KINDS for part in TRAINED_OR_MEASURED):
        return
    with replacing_files(folder) as scratch:
        for part in TRAINED_OR_MEASURED:
            made = rows(parts[part])
            if part != "training":
                made["prompts"] = list({row["film"]: row for row in made["prompts"]}.values())
            for kind in KINDS:
                lines = "".join(json.dumps(row) + "\n" for row in made[kind])
                (scratch / f"{kind}_{part}.jsonl").write_text(lines, encoding="utf-8")


@cache
def packaged() -> dict[str, list[Review]]:
    """Returns the reviews of each part of `SHARES` from the package that carries them."""
    return split(read(sources.unpacked(sources.REVIEWS) / sources.REVIEWS.files[0]))
