"""Makes the demo's demonstrations and ranked comparisons from its prompts (`make demo-data`).

The embedded model answers; a system prompt that is not part of the data keeps its answers short. An automatic labeler
(lit_instruct.evaluation.labelers.tone) stands in for the people of the paper.

- Demonstrations show the desired form: one short, finished answer. Each is the first of several samples that ended by
  itself, is a finished sentence and has no repetitions. Tone is ignored, because it is what reward model and PPO
  should learn, not SFT.
- Comparisons: K = 4..9 samples per prompt, rated by the labeler on the paper's scale from 1 to 7 and ranked; equal
  ratings are ties.

Training and validation prompts are kept apart. Running it again with the same versions gives the same files.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from data_modules.rows import PromptRow, read_rows
from lit_instruct.commands.sample import ranks, write_jsonl
from lit_instruct.evaluation.labelers import is_finished, repetition_penalty, tone
from lit_instruct.models.loading import find_source, load_tokenizer
from lit_instruct.prompting import Prompter, prompt_text
from lit_instruct.rollouts.text import Response, TextGenerator

MODEL = "smollm2-135m-instruct"
SYSTEM = "Answer in one short sentence."
MAX_NEW_TOKENS = 40
SPLITS = {"train": (440, 400), "validation": (80, 80)}
"""Demonstrations and comparisons of each split; both take their prompts from the split's own file."""


def main() -> None:
    """Writes demonstrations_*.jsonl and ranked_*.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data", help="folder to write into")
    parser.add_argument("--limit", type=int, help="write only this many rows of each kind, as a check")
    options = parser.parse_args()
    prompter = Prompter(load_tokenizer(find_source(MODEL)), system=SYSTEM)
    generator = TextGenerator.from_source(MODEL, prompter=prompter)
    for split, (demonstrations, comparisons) in SPLITS.items():
        rows = read_rows(Path(__file__).parent / "data" / f"prompts_{split}.jsonl", PromptRow)
        random.Random(0).shuffle(rows)
        first, second = rows[: 2 * demonstrations], rows[::-1][:comparisons]
        made = make_demonstrations(generator, first)[:demonstrations]
        write_jsonl(options.out / f"demonstrations_{split}.jsonl", made[: options.limit])
        made = make_comparisons(generator, second[: options.limit])
        write_jsonl(options.out / f"ranked_{split}.jsonl", made)


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
        answers = generator.respond(
            [rows[number].prompt for number in numbers],
            k=k,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=2 + k,
            progress=f"comparisons, K = {k}",
        )
        for number, samples in zip(numbers, answers, strict=True):
            row, texts = rows[number], [sample.text for sample in samples if sample.text]
            scores = [round(score, 4) for score in tone([(prompt_text(row.prompt), text) for text in texts])]
            made[number] = {
                "prompt": row.prompt,
                "responses": texts,
                "ranks": ranks([seven_point(score) for score in scores]),
                "scores": scores,
                **about(row),
            }
    return [made[number] for number in sorted(made) if len(made[number]["responses"]) >= 4]


def seven_point(score: float) -> int:
    """Returns the labeler's score, between -1.5 and 1, on the scale from 1 to 7 that the paper's labelers rated on."""
    return round((min(max(score, -1.5), 1.0) + 1.5) / 2.5 * 6) + 1


def about(row: PromptRow) -> dict[str, object]:
    """Returns the user and use case of a prompt, which its rows keep."""
    return {"user": row.user, "use_case": row.use_case}


if __name__ == "__main__":
    main()
