"""Writes the prompts of this recipe from IMDB's reviews (Maas et al. 2011): the beginnings that a model continues.

    python recipes/imdb/make_data.py    (in a folder of `lit-instruct init`: python make_data.py)

As in RL4LMs (`IMDB` in rl4lms/data_pools/custom_text_generation_pools.py), a review is cut after half of its words, and
the policy reads the last 64 tokens of that half; what stands before them goes into the column `before_prompt`, because
the classifier reads it too. Training prompts come from 80 % of the training split, validation prompts from the rest and
test prompts from the test split, 2,000 each. RL4LMs shuffles without a seed; here it is --seed. reviews_test.jsonl has
the test prompts' whole reviews, for the likelihood of people's texts.

As in TRL's sentiment example (examples/scripts/ppo.py before 0.12), short_train.jsonl and short_test.jsonl have the
first 2 to 7 tokens of each review of more than 200 characters.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from data_modules.rows import PromptRow, stream_rows
from lit_instruct.errors import UserError
from lit_instruct.files import json_text, replacing_files
from lit_instruct.models.loading import find_source, load_tokenizer

IMDB = "stanfordnlp/imdb@e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
BASE = "lvwerra/gpt2-imdb"
OUT = Path("runs/data/imdb")
PROMPTS = 2000
"""Of each part."""
TRAINING_SHARE = 0.8
MOST_TOKENS = 64
MOST_REVIEW = 1000
"""Tokens of a review in reviews_test.jsonl: GPT-2 reads 1,024."""
SHORT = (2, 7)
"""Fewest and most tokens of a short prompt."""
LEAST_CHARACTERS = 200
"""A review of no more than this many has no short prompt."""

Rows = list[dict[str, Any]]


def half(review: str) -> str:
    """Returns the first half of a review's words, which are what single spaces separate."""
    words = review.split(" ")
    return " ".join(words[: len(words) // 2])


def last_tokens(text: str, tokenizer: PreTrainedTokenizerBase, most: int = MOST_TOKENS) -> tuple[str, str]:
    """Splits a text before its last tokens: what stands before them, and at most `most` tokens."""
    starts = [start for start, _ in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
    for start in starts[-most:]:
        if len(tokenizer(text[start:])["input_ids"]) <= most:  # a word that is cut can have more tokens than before
            return text[:start], text[start:]
    return text, ""


def first_tokens(text: str, tokenizer: PreTrainedTokenizerBase, count: int) -> str:
    """Returns the text of the first tokens."""
    ends = [end for _, end in tokenizer(text, return_offsets_mapping=True)["offset_mapping"]]
    return text[: ends[min(count, len(ends)) - 1]] if ends else ""


def halves(reviews: Iterable[PromptRow], tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    """Yields the prompt of each review, with what stands before it."""
    for review in reviews:
        before, prompt = last_tokens(half(str(review.prompt)), tokenizer)
        if prompt.strip():
            yield {"prompt": prompt, "before_prompt": before, "label": review.extra.get("label")}


def beginnings(
    reviews: Iterable[PromptRow], tokenizer: PreTrainedTokenizerBase, draw: random.Random
) -> Iterator[dict[str, Any]]:
    """Yields the first few tokens of each long enough review."""
    for review in reviews:
        text = str(review.prompt)
        if len(text) > LEAST_CHARACTERS:
            prompt = first_tokens(text, tokenizer, draw.randint(*SHORT))
            if prompt.strip():
                yield {"prompt": prompt, "label": review.extra.get("label")}


def whole(reviews: Iterable[PromptRow], tokenizer: PreTrainedTokenizerBase) -> Iterator[dict[str, Any]]:
    """Yields the reviews that GPT-2 reads whole."""
    for review in reviews:
        if len(tokenizer(str(review.prompt))["input_ids"]) <= MOST_REVIEW:
            yield {"text": review.prompt}


def made(
    train: Sequence[PromptRow], test: Sequence[PromptRow], tokenizer: PreTrainedTokenizerBase, seed: int
) -> dict[str, Rows]:
    """Returns the rows of each file, by its name.

    Args:
        train: reviews of the training split.
        test: reviews of the test split.
        tokenizer: of the policy.
        seed: of the order of the reviews and of the lengths of short prompts.
    """
    draw = random.Random(seed)
    train, test = draw.sample(train, len(train)), draw.sample(test, len(test))
    first = int(TRAINING_SHARE * len(train))
    parts = {"train": train[:first], "validation": train[first:], "test": test}
    files = {f"prompts_{part}": list(halves(rows[:PROMPTS], tokenizer)) for part, rows in parts.items()}
    files["reviews_test"] = list(whole(test[:PROMPTS], tokenizer))
    files["short_train"] = list(beginnings(train, tokenizer, draw))
    files["short_test"] = list(beginnings(test[:PROMPTS], tokenizer, draw))
    return files


def write(out: Path, files: dict[str, Rows], origin: dict[str, Any]) -> None:
    """Writes all files, or none, and `origin.json`, which says how they were made."""
    with replacing_files(out) as scratch:
        for name, rows in files.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (scratch / f"{name}.jsonl").write_text(text, encoding="utf-8")
        counts = {name: len(rows) for name, rows in files.items()}
        (scratch / "origin.json").write_text(json_text(origin | {"rows": counts}), encoding="utf-8")


def prepare(train: str, test: str, base: str, seed: int, out: Path) -> None:
    """Writes the files for reviews of these places.

    Args:
        train: hub id with its split, file or folder of reviews {text, label}.
        test: the same.
        base: model whose tokens are counted.
        seed: of everything that is drawn.
        out: folder.

    Raises:
        UserError: reviews or tokenizer cannot be read.
    """
    tokenizer = load_tokenizer(find_source(base))
    parts = [list(stream_rows(path, PromptRow, fields={"prompt": "text"})) for path in (train, test)]
    origin = {"train": train, "test": test, "base": base, "seed": seed}
    write(out, made(*parts, tokenizer, seed), origin)


def main(words: Sequence[str] | None = None) -> int:
    """Writes the files; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", default=f"{IMDB}:train", help="reviews to train on (default: %(default)s)")
    parser.add_argument("--test", default=f"{IMDB}:test", help="reviews to test on (default: %(default)s)")
    parser.add_argument("--base", default=BASE, help="whose tokens are counted (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="folder (default: %(default)s)")
    given = parser.parse_args(words)
    try:
        prepare(given.train, given.test, given.base, given.seed, given.out)
    except UserError as error:
        print(f"make_data: error: {error}", file=sys.stderr)
        return 2
    print(f"written to {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
