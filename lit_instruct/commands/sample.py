"""`lit-instruct sample`: samples K responses to each prompt and ranks them by a labeler, as new comparisons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_modules.rows import PromptRow, read_rows
from lit_instruct.commands.self_agreement import write_report
from lit_instruct.errors import UserError
from lit_instruct.files import write_text
from lit_instruct.judging.comparisons import Noise
from lit_instruct.models.quantised import Quantize
from lit_instruct.prompting import Prompt
from lit_instruct.rollouts.function_names import Function
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.labelers import Ranking, labeler_of
from lit_instruct.rollouts.text import TextGenerator


@dataclass
class SampleData:
    """The prompts.

    Args:
        path: file of prompts.
        limit: use only this many, from the start.
        fields: field of the layout -> its name in the file, such as {prompt: question}.
    """

    path: str
    limit: int | None = None
    fields: dict[str, str] | None = None


@dataclass
class SampleOptions:
    """Samples K responses to each prompt and ranks them by a labeler.

    Args:
        run: the model: a stage folder such as runs/demo/sft, a hub id or smollm2-135m-instruct.
        data: the prompts.
        out: file to write, .jsonl; rows {prompt, responses, ranks, scores, labeler}.
        k: responses per prompt, at least 2 if they are ranked.
        labeler: import path of a Python function, judge:FILE.yaml, reward:RUN for a reward model, or
            classifier:NAME#LABEL (docs/labelers.md); null leaves the responses unranked, for people (`lit-instruct
            rank`), beside the further fields of the prompt's row.
        sampling: length and temperature.
        batch_size: sequences decoded in parallel.
        seed: seed of sampling.
        quantize: bits of the model's base: none, 8bit or 4bit; null uses that of its stage.
        noise: makes the labeler disagree with others.
    """

    run: str
    data: SampleData
    out: str
    k: int = 4
    labeler: Function | None = "lit_instruct.evaluation.labelers.tone"
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    batch_size: int = 64
    seed: int = 0
    quantize: Quantize | None = None
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self) -> None:
        """Checks that there is something to compare."""
        if self.k < 2 and self.labeler is not None:
            raise UserError(f"--k={self.k}: a comparison needs at least 2 responses")
        if self.k < 1:
            raise UserError(f"--k={self.k}: must be at least 1")


def sample(options: SampleOptions) -> Path:
    """Writes ranked comparisons and returns the file.

    Raises:
        UserError: prompts, model or labeler cannot be used.
    """
    out = Path(options.out)
    if not out.parent.is_dir():
        raise UserError(f"--out={out}: no such folder; make it first")
    if options.labeler is None:
        return _unranked(options, out)
    labeler = labeler_of(options.labeler, options.noise)
    rows = read_rows(options.data.path, PromptRow, fields=options.data.fields)[: options.data.limit]
    texts = [[text for text in answers if text] for answers in sampled_texts(options, [row.prompt for row in rows])]
    answered = [(row, answers) for row, answers in zip(rows, texts, strict=True) if len(answers) >= 2]
    rankings = labeler.ranked(
        [row.prompt for row, _ in answered],
        [answers for _, answers in answered],
        [row.columns() for row, _ in answered],
    )
    ranked = [
        {"prompt": row.prompt, "responses": answers, **ranking_columns(ranking, labeler.name)}
        for (row, answers), ranking in zip(answered, rankings, strict=True)
        if ranking is not None
    ]
    write_jsonl(out, ranked)
    left_out = len(rows) - len(answered)
    note = f"; {left_out} left out, with fewer than two non-empty responses" if left_out else ""
    unjudged = len(answered) - len(ranked)
    note += f"; {unjudged} left out, which the judge could not judge" if unjudged else ""
    print(f"{out}: {len(ranked)} prompts, K = {options.k}{note}")
    write_report(out, labeler)
    return out


def ranking_columns(ranking: Ranking, labeler: str) -> dict[str, Any]:
    """Returns the fields of a comparison that say how it was ranked, and by whom."""
    scores = {} if ranking.scores is None else {"scores": ranking.scores}
    return {"ranks": ranking.ranks, **scores, "labeler": labeler}


def _unranked(options: SampleOptions, out: Path) -> Path:
    """Writes the non-empty responses to each prompt, with the columns of its row."""
    rows = read_rows(options.data.path, PromptRow, fields=options.data.fields)[: options.data.limit]
    found = sampled_texts(options, [row.prompt for row in rows])
    answered = [
        {**row.columns(), "prompt": row.prompt, "responses": [text for text in answers if text]}
        for row, answers in zip(rows, found, strict=True)
    ]
    write_jsonl(out, answered)
    print(f"{out}: {len(answered)} prompts, K = {options.k}, not ranked")
    return out


class Sampling(Protocol):
    """Options of commands that sample K responses to each prompt."""

    run: Any
    k: int
    sampling: SamplingOptions
    batch_size: int
    seed: int
    quantize: Quantize | None


def sampled_texts(options: Sampling, prompts: Sequence[Prompt]) -> list[list[str]]:
    """Returns K responses to each prompt, from the model that the options name.

    Raises:
        UserError: the model cannot be used, or a prompt is too long for it.
    """
    generator = TextGenerator.from_source(options.run, quantize=options.quantize)
    responses = generator.respond(
        prompts,
        k=options.k,
        max_new_tokens=options.sampling.max_new_tokens,
        temperature=options.sampling.temperature,
        top_p=options.sampling.top_p,
        top_k=options.sampling.top_k,
        stop_ids=options.sampling.stop_ids,
        stop_strings=options.sampling.stop_strings,
        seed=options.seed,
        batch_size=options.batch_size,
        progress="sampling",
    )
    return [[response.text for response in answers] for answers in responses]


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes rows as JSON lines, atomically; raises UserError if they cannot be written."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "--out")
