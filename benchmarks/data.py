"""Reading, hygiene and tokenisation of many prompts: time and memory by number of rows.

`python -m benchmarks.data` writes benchmarks/results/data.json. Every measurement runs in a process of its own with one
thread; its peak memory counts from after the imports.
"""

from __future__ import annotations

import json
import math
import random
import time
from argparse import Namespace
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.harness import Command, Found, peak_bytes, reset_peak, run_side, say, scratch_folder

SIZES = (10_000, 100_000, 1_000_000)
STEPS = {
    "read": "reading and checking the rows",
    "hygiene": "reading, and all steps of hygiene",
    "tokenise": "reading and tokenising",
    "prepare": "all of it, as PPO starts: tables in the cache",
    "again": "the next start: tables from the cache",
}
BYTES_A_ROW = 64
"""Growth of memory at most: the project's own target. That it applies from 100,000 rows on was decided after a run."""
EXPONENT = 1.1
"""The project's own target was linear time, rows ** 1; the rest allows for noise on a shared machine."""
UNIQUE_PREFIX = 32

VERBS = ("Write", "Explain", "Summarise", "Translate", "Rewrite", "Compare", "List", "Describe", "Improve", "Shorten")
NOUNS = ("letter", "poem", "recipe", "invoice", "contract", "garden", "ship", "river", "theorem", "sonata", "bridge")
NOUNS += ("market", "school", "village", "novel", "machine", "engine", "lamp", "window", "harvest", "season", "journey")
USE_CASES = {"generation": 46, "open_qa": 12, "brainstorming": 11, "chat": 8, "rewrite": 7, "summarization": 4}


def make_prompts(path: Path, count: int, seed: int = 0) -> None:
    """Writes prompts of 10 to 60 words: one in 20 repeats an earlier beginning, one in 50 holds an e-mail address."""
    draw = random.Random(seed)
    cases, weights = list(USE_CASES), list(USE_CASES.values())
    beginning = ""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            words = " ".join(draw.choices(NOUNS, k=draw.randint(10, 60)))
            text = f"{draw.choice(VERBS)} number {number} of the {words}."
            if number % 20 == 0 and beginning:
                text = f"{beginning} {words}"
            elif len(words) > 300:
                beginning = text
            if number % 50 == 0:
                text += f" Send it to person{number}@mail{number % 97}.org."
            row = {"prompt": text, "user": f"user-{draw.randrange(1 + count // 100)}"}
            row["use_case"] = draw.choices(cases, weights)[0]
            file.write(json.dumps(row) + "\n")


def run_step(step: str, path: str, tokenizer: str) -> dict[str, Any]:
    """Runs one of STEPS in this process."""
    import torch
    from transformers import AutoTokenizer

    from data_modules import PromptDataModule
    from data_modules.hygiene.facts import PromptFacts
    from data_modules.hygiene.steps import HygieneOptions
    from data_modules.rows import PromptRow, stream_rows
    from data_modules.tables.build import ROWS_TOGETHER
    from lit_instruct.prompting import Prompter

    torch.set_num_threads(1)
    prompter = Prompter(AutoTokenizer.from_pretrained(tokenizer))
    options = HygieneOptions(unique_prefix=UNIQUE_PREFIX)
    removed: dict[str, int] = {}
    reset_peak()
    before, started, cpu_started = peak_bytes(), time.perf_counter(), time.process_time()
    if step in ("prepare", "again"):
        data = PromptDataModule(path, max_prompt_length=1024, hygiene=options)
        data.prompter = prompter
        data.setup()
        removed = data.report.removed
    else:
        facts = PromptFacts(options, prompter)
        rows = stream_rows(path, PromptRow)
        while batch := list(islice(rows, ROWS_TOGETHER)):
            if step == "hygiene":
                facts.add(batch)
            elif step == "tokenise":
                prompter.prompts_ids([row.prompt for row in batch])
        if step == "hygiene":
            removed = facts.choose(None, share=0.1, seed=0).removed
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "peak_bytes": peak_bytes(),
        "start_bytes": before,
        "removed": removed,
    }


def measure(step: str, rows: int, path: Path, tokenizer: str) -> dict[str, Any]:
    """Runs a step in a process of its own and returns what it took."""
    single = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "RAYON", "ARROW")}
    variables = single | {"LIT_INSTRUCT_CACHE": str(path.parent / "cache")}
    work = {"step": step, "path": str(path), "tokenizer": tokenizer}
    found = run_side("benchmarks.data", "run_step", work, variables)
    return {"step": step, "rows": rows, "rows_per_second": round(rows / found["seconds"]), **found}


def growth(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Returns how time and memory of each step grow with the rows, from results of `measure`.

    Buffers of a fixed size (batches of Arrow, the tokenizer's cache) are full only after some ten thousand rows, so
    `bytes_a_row` is the growth between the two largest sizes; `bytes_a_row_with_buffers` is that from the smallest one.
    `exponent` is that of the processor's time, in which other programs do not count; 1 is linear.
    """
    found = {}
    for step in STEPS:
        of_step = sorted((r for r in results if r["step"] == step), key=lambda r: r["rows"])
        few, nearly, many = of_step[0], of_step[-2], of_step[-1]
        exponent = math.log(many["cpu_seconds"] / few["cpu_seconds"]) / math.log(many["rows"] / few["rows"])
        found[step] = {
            "exponent": round(exponent, 3),
            "bytes_a_row": _bytes_a_row(nearly, many),
            "bytes_a_row_with_buffers": _bytes_a_row(few, many),
        }
    return found


def _bytes_a_row(few: dict[str, Any], many: dict[str, Any]) -> float:
    return round((many["peak_bytes"] - few["peak_bytes"]) / (many["rows"] - few["rows"]), 1)


def measure_all(options: Namespace) -> Found:
    """Measures all steps at all sizes; the exit status is 1 if time or memory grow too fast."""
    from lit_instruct.models import embedded

    tokenizer = embedded.resolve(embedded.NAME)
    results = []
    with scratch_folder() as scratch:
        for rows in sorted(options.sizes):
            path = Path(scratch) / f"prompts-{rows}.jsonl"
            make_prompts(path, rows)
            for step in STEPS:
                found = measure(step, rows, path, tokenizer)
                results.append(found)
                say(f"{rows} rows, {step}: {found['seconds']:.2f} s, peak {found['peak_bytes'] / 1e6:.1f} MB")
            path.unlink()
    grown = growth(results)
    limits = {"exponent": EXPONENT, "bytes_a_row": BYTES_A_ROW}
    held = all(found[name] <= limit for found in grown.values() for name, limit in limits.items())
    say(f"within {limits}" if held else f"NOT within {limits}")
    content = {"steps": STEPS, "unique_prefix": UNIQUE_PREFIX, "limits": limits, "held": held}
    return Found({**content, "growth": grown, "results": results}, "data.json", ("data",), code=0 if held else 1)


OPTIONS = {"--sizes": {"type": int, "nargs": "+", "default": SIZES, "help": "numbers of prompts, two or more"}}
main = Command("benchmarks.data", __doc__, measure_all, OPTIONS)

if __name__ == "__main__":
    raise SystemExit(main())
