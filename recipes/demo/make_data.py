"""Makes the demo's demonstrations and ranked comparisons from its prompts (`make demo-data`).

Demonstrations are answers of the embedded model; a system prompt that is not part of the data keeps them short.
Comparisons are samples of the demo's own SFT model, as in the paper, so that the reward model learns from what PPO
will say; `make sft` is run in between. An automatic labeler (lit_instruct.evaluation.prompt_aware.helpful) stands in
for the people of the paper.

- Demonstrations show the desired form: one short, finished answer. Each is the first of several samples that ended by
  itself, is a finished sentence and has no repetitions.
- Comparisons: K = 4..9 samples per prompt, rated by the labeler on the paper's scale from 1 to 7 and ranked; equal
  ratings are ties.

Training and validation prompts are kept apart. Running it again with the same versions gives the same files on the
same processor with as many threads; others round differently.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from data_modules.rows import PromptRow, read_rows
from lit_instruct.commands.sample import write_jsonl
from lit_instruct.evaluation.labelers import is_finished, repetition_penalty
from lit_instruct.evaluation.prompt_aware import helpful
from lit_instruct.judging.comparisons import ranks
from lit_instruct.models.loading import find_source, load_tokenizer
from lit_instruct.progress import track
from lit_instruct.prompting import Prompter, prompt_text
from lit_instruct.rollouts.text import Response, TextGenerator

MODEL = "smollm2-135m-instruct"
SYSTEM = "Answer in one short sentence."
MAX_NEW_TOKENS = 40
DEMONSTRATIONS = {"train": 440, "validation": 80}
COMPARISONS = {"train": 480, "validation": 80}
"""Rows of each split; both kinds take their prompts from the split's own file."""


def main() -> None:
    """Writes demonstrations_*.jsonl or ranked_*.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("demonstrations", "comparisons"))
    parser.add_argument("--sft", default="runs/demo/sft", help="the SFT model that is sampled for comparisons")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="folder to write into")
    parser.add_argument("--limit", type=int, help="write only this many rows, as a check")
    options = parser.parse_args()
    if options.kind == "demonstrations":
        prompter = Prompter(load_tokenizer(find_source(MODEL)), system=SYSTEM)
        generator = TextGenerator.from_source(MODEL, prompter=prompter)
        for split, count in DEMONSTRATIONS.items():
            made = make_demonstrations(generator, shuffled_prompts(split)[: 2 * count])[:count]
            write_jsonl(options.out / f"demonstrations_{split}.jsonl", made[: options.limit])
    else:
        generator = TextGenerator.from_source(options.sft)
        for split, count in COMPARISONS.items():
            rows = without_demonstrations(shuffled_prompts(split)[::-1], split)[:count]
            made = make_comparisons(generator, rows[: options.limit])
            write_jsonl(options.out / f"ranked_{split}.jsonl", made)


def shuffled_prompts(split: str) -> list[PromptRow]:
    """Returns the prompts of a split in random order; comparisons take them from the end."""
    rows = read_rows(Path(__file__).parent / "data" / f"prompts_{split}.jsonl", PromptRow)
    random.Random(0).shuffle(rows)
    return rows


def without_demonstrations(rows: list[PromptRow], split: str) -> list[PromptRow]:
    """Returns the prompts that no demonstration answers: SFT's samples of the others would be what it learnt."""
    path = Path(__file__).parent / "data" / f"demonstrations_{split}.jsonl"
    known = {prompt_text(row.prompt) for row in read_rows(path, PromptRow)}
    return [row for row in rows if prompt_text(row.prompt) not in known]


def make_demonstrations(generator: TextGenerator, rows: list[PromptRow]) -> list[dict[str, object]]:
    """Returns {prompt, response} rows for the prompts that got an acceptable response."""
    answers = generator.respond(
        [row.prompt for row in rows],
        k=4,
        max_new_tokens=MAX_NEW_TOKENS,
        temperature=0.6,
        seed=1,
        progress="demonstrations",
    )
    made: list[dict[str, object]] = []
    for row, samples in zip(rows, answers, strict=True):
        good = [sample.text for sample in samples if is_acceptable(prompt_text(row.prompt), sample)]
        if good:
            made.append({"prompt": row.prompt, "response": good[0], **about(row)})
    return made


def is_acceptable(prompt: str, sample: Response) -> bool:
    """True for a finished answer of 4 to 30 words on one line, without repetition, that does not echo the prompt."""
    count = len(sample.text.split())
    finished = sample.ended and is_finished(sample.text) and "\n" not in sample.text
    return finished and 4 <= count <= 30 and not repetition_penalty(sample.text) and sample.text not in prompt


def make_comparisons(generator: TextGenerator, rows: list[PromptRow]) -> list[dict[str, object]]:
    """Returns {prompt, responses, ranks, scores} rows; K runs from 4 to 9 from prompt to prompt."""
    made: dict[int, dict[str, object]] = {}
    for k in range(4, 10):
        numbers = range(k - 4, len(rows), 6)
        found = ranked_samples(generator, [rows[number] for number in numbers], k)
        made.update(zip(numbers, found, strict=True))
    return [made[number] for number in sorted(made) if len(made[number]["responses"]) >= 4]


def ranked_samples(generator: TextGenerator, rows: list[PromptRow], k: int) -> list[dict[str, object]]:
    """Returns a {prompt, responses, ranks, scores} row of K samples for each prompt; empty samples are left out."""
    answers = generator.respond(
        [row.prompt for row in rows],
        k=k,
        max_new_tokens=MAX_NEW_TOKENS,
        seed=2 + k,
        progress=f"comparisons, K = {k}",
    )
    made: list[dict[str, object]] = []
    for row, samples in track(list(zip(rows, answers, strict=True)), f"labels, K = {k}"):
        texts = [sample.text for sample in samples if sample.text]
        scores = [round(score, 4) for score in helpful([(prompt_text(row.prompt), text) for text in texts])]
        rated = ranks([seven_point(score) for score in scores])
        made.append({"prompt": row.prompt, "responses": texts, "ranks": rated, "scores": scores, **about(row)})
    return made


def seven_point(score: float) -> int:
    """Returns the labeler's score, between -1 and 1, on the scale from 1 to 7 that the paper's labelers rated on."""
    return round((score + 1) * 3) + 1


def about(row: PromptRow) -> dict[str, object]:
    """Returns the user and use case of a prompt, which its rows keep."""
    return {"user": row.user, "use_case": row.use_case}


if __name__ == "__main__":
    main()
