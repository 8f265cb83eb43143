"""Write the demo's prompt files, `prompts_train.jsonl` and `prompts_validation.jsonl`.

What it does: the files in `prompts/` hold hand-written templates, each with at most ten hand-picked fillers,
and the passages that some of the prompts carry. Every template and filler makes one prompt. The script keeps
as many prompts of each use case as Table 1 of the InstructGPT paper (Ouyang et al., 2022) asks for, gives
them to 60 made-up users of unequal activity, and puts 15 % of the prompts, all those of some users, into the
validation file.

Why: the paper splits its prompts by user, so that the validation set shows how the model does on people it
has never seen, and it limits how many prompts a single user can add. A demo with the same shape of data
exercises the same code. The order is drawn from SHA-256 keys, so that every machine and Python version writes
the same bytes.

Usage: python recipes/demo/make_prompts.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CONTENT_DIR = HERE / "prompts"
DATA_DIR = HERE / "data"

TOTAL_PROMPTS = 1340
VALIDATION_PROMPTS = 201
VALIDATION_TOLERANCE = 6  # users are not split, so the validation size cannot be hit exactly
USERS = 60
ACTIVITY_SCALE = 25.0  # user number i is exp(-i / scale) times as active as the busiest one
MAX_PER_USER = 60
MAX_PER_TEMPLATE = 10
MAX_PER_PASSAGE = 3

# Percentages of Table 1 of the paper (they add up to 99.9).
USE_CASE_PERCENT = {
    "generation": 45.6,
    "open_qa": 12.4,
    "brainstorming": 11.2,
    "chat": 8.4,
    "rewrite": 6.6,
    "summarization": 4.2,
    "classification": 3.5,
    "other": 3.5,
    "closed_qa": 2.6,
    "extract": 1.9,
}


class Prompt(NamedTuple):
    """One prompt before it has a user; `passage` is the key of the passage it carries, or None."""

    text: str
    use_case: str
    template: str
    passage: str | None


def order_key(*parts: object) -> str:
    """Return a pseudo-random sort key that depends on nothing but its arguments."""
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8")).hexdigest()


def read_sections(path: Path) -> dict[str, list[str]]:
    """Read a content file: "@ name" opens a section; "#" lines and blank lines are left out."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("@ "):
            name = line[2:].strip()
            if name in sections:
                raise ValueError(f"{path.name}: section {name!r} appears twice")
            lines = sections[name] = []
        elif line.strip() and not line.startswith("#"):
            lines.append(line.strip())
    return sections


def read_passages(content: Path = CONTENT_DIR) -> dict[str, str]:
    """Return the passages by key, each as one line of text."""
    return {key: " ".join(lines) for key, lines in read_sections(content / "passages.txt").items()}


def fill(template: str, filler: str, passages: dict[str, str]) -> tuple[str, str | None]:
    """Fill one template.

    A filler may start with "[key]", which puts that passage in place of "{passage}"; what is left goes into
    the "{}" slots, parts separated by " | ". A literal backslash-n in template or filler is a line break.
    """
    key = None
    match = re.match(r"\[(\w+)\]\s*", filler)
    if match:
        key, filler = match.group(1), filler[match.end() :]
    if (key is not None) != ("{passage}" in template):
        raise ValueError(f"template and filler disagree about a passage: {template!r} / {filler!r}")
    parts = filler.split(" | ") if filler else []
    pieces = template.split("{}")
    if len(parts) != len(pieces) - 1:
        raise ValueError(f"{len(pieces) - 1} slots, {len(parts)} parts: {template!r} / {filler!r}")
    text = pieces[0] + "".join(part + piece for part, piece in zip(parts, pieces[1:], strict=True))
    text = text.replace("\\n", "\n")
    if key is not None:
        text = text.replace("{passage}", passages[key])
    return text[0].upper() + text[1:] if template.startswith("{}") else text, key


def read_prompts(content: Path = CONTENT_DIR) -> list[Prompt]:
    """Make every prompt that the content files describe, and check the limits on their use."""
    passages = read_passages(content)
    prompts: list[Prompt] = []
    for path in sorted(content.glob("*.txt")):
        if path.name == "passages.txt":
            continue
        for name, (template, *fillers) in read_sections(path).items():
            use_case = name.split("/")[0]
            if use_case not in USE_CASE_PERCENT:
                raise ValueError(f"{path.name}: {name!r} names no use case of Table 1")
            if len(fillers) > MAX_PER_TEMPLATE:
                raise ValueError(f"{path.name}: {name!r} has more than {MAX_PER_TEMPLATE} fillers")
            for filler in fillers:
                text, key = fill(template, filler, passages)
                prompts.append(Prompt(text, use_case, name, key))
    overused = [k for k, n in Counter(p.passage for p in prompts if p.passage).items() if n > MAX_PER_PASSAGE]
    if overused:
        raise ValueError(f"passages used more than {MAX_PER_PASSAGE} times: {overused}")
    distinct = {normalise(p.text) for p in prompts}
    if len(distinct) != len(prompts):
        raise ValueError("two prompts differ in nothing but case, spaces and punctuation")
    return prompts


def normalise(text: str) -> str:
    """Reduce a prompt to its lower-case words, the form in which duplicates are compared."""
    return " ".join(re.findall(r"\w+", text.lower()))


def apportion(weights: list[float], total: int) -> list[int]:
    """Split `total` into whole numbers in proportion to the weights (largest remainders)."""
    shares = [total * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (counts[i] - shares[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def select(prompts: list[Prompt]) -> list[Prompt]:
    """Keep as many prompts of each use case as Table 1 asks for."""
    counts = apportion(list(USE_CASE_PERCENT.values()), TOTAL_PROMPTS)
    kept: list[Prompt] = []
    for use_case, count in zip(USE_CASE_PERCENT, counts, strict=True):
        pool = sorted((p for p in prompts if p.use_case == use_case), key=lambda p: order_key("select", p.text))
        if len(pool) < count:
            raise ValueError(f"{use_case}: {count} prompts needed, {len(pool)} written")
        kept += pool[:count]
    return kept


def assign_users(prompts: list[Prompt]) -> dict[str, list[Prompt]]:
    """Deal the prompts to users whose activity falls off exponentially; user numbers do not reveal it."""
    sizes = apportion([math.exp(-i / ACTIVITY_SCALE) for i in range(USERS)], len(prompts))
    if max(sizes) > MAX_PER_USER:
        raise ValueError(f"the busiest user would have {max(sizes)} prompts")
    names = sorted((f"user-{i:03d}" for i in range(1, USERS + 1)), key=lambda name: order_key("user", name))
    dealt = sorted(prompts, key=lambda p: order_key("deal", p.text))
    by_user: dict[str, list[Prompt]] = {}
    for name, size in zip(names, sizes, strict=True):
        by_user[name], dealt = dealt[:size], dealt[size:]
    return by_user


def choose_validation_users(by_user: dict[str, list[Prompt]], tries: int = 8000) -> set[str]:
    """Choose users whose prompts together look most like Table 1, among `tries` draws."""
    wanted = dict(zip(USE_CASE_PERCENT, apportion(list(USE_CASE_PERCENT.values()), VALIDATION_PROMPTS), strict=True))
    counts = {user: Counter(p.use_case for p in prompts) for user, prompts in by_user.items()}
    best: set[str] = set()
    best_cost = math.inf
    for draw in range(tries):
        chosen: set[str] = set()
        total: Counter[str] = Counter()
        for user in sorted(by_user, key=lambda name: order_key("validation", draw, name)):
            if total.total() + len(by_user[user]) <= VALIDATION_PROMPTS + VALIDATION_TOLERANCE:
                chosen.add(user)
                total += counts[user]
            if total.total() >= VALIDATION_PROMPTS - VALIDATION_TOLERANCE:
                break
        # Relative errors, so that the small use cases count too.
        cost = sum((total[name] - count) ** 2 / count for name, count in wanted.items())
        if total.total() >= VALIDATION_PROMPTS - VALIDATION_TOLERANCE and cost < best_cost:
            best, best_cost = chosen, cost
    return best


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the rows as JSON lines, in shuffled but reproducible order."""
    rows = sorted(rows, key=lambda row: order_key("row", row["prompt"]))
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode("utf-8"))


def main(argv: list[str] | None = None) -> None:
    """Write both files and print their sizes."""
    parser = argparse.ArgumentParser(description="Write the demo's prompt files.")
    parser.add_argument("--out", type=Path, default=DATA_DIR, help="folder to write to")
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)

    by_user = assign_users(select(read_prompts()))
    validation_users = choose_validation_users(by_user)
    for split in ("train", "validation"):
        rows = [
            {"prompt": p.text, "user": user, "use_case": p.use_case, "template": p.template}
            for user, prompts in by_user.items()
            for p in prompts
            if (user in validation_users) == (split == "validation")
        ]
        write_rows(out / f"prompts_{split}.jsonl", rows)
        print(f"{split}: {len(rows)} prompts, {len({row['user'] for row in rows})} users")


if __name__ == "__main__":
    main()
