"""Rewards for other programs: `lit-instruct rm score` for files, `lit_instruct.score` in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from data_modules.formats import COMPARISON_LAYOUTS, DEMONSTRATION_LAYOUTS, Layout, Record
from data_modules.formats.messages import check_text, prompt_of, with_system
from data_modules.formats.scored_rows import SCORED_ROWS
from data_modules.reading.bad_rows import BadRows
from data_modules.rows import Row, stream_rows
from lit_instruct.commands.scored_file import ScoredFile, Scores
from lit_instruct.errors import DataError, RunawayTemplateError, UserError
from lit_instruct.files import expand_home
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.quantised import Quantize
from lit_instruct.progress import SHORT, Progress
from lit_instruct.prompting import Prompt, Prompter
from lit_instruct.rollouts.text_reward import BATCH_TOKENS, TextReward, reward_source

WINDOW = 64
"""Rows that are read, sorted by length and scored together; batches depend only on the window."""


def _candidates(record: Record) -> list[Record]:
    prompt = with_system(prompt_of(record["prompt"]), record.get("system"))
    return [{"prompt": prompt, "responses": record["responses"]}]


@dataclass
class ScorableRow(Row):
    """A prompt with one or several responses, ranked or not."""

    layouts = (
        *(layout for layout in COMPARISON_LAYOUTS if layout != SCORED_ROWS),
        Layout("candidates", ("prompt", "responses"), _candidates, takes=("system",)),
        *DEMONSTRATION_LAYOUTS,
    )
    response: str | None = None
    responses: list[str] | None = None
    ranks: list[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.responses is None:
            check_text(self.response, 'field "response"')
            return
        if not isinstance(self.responses, list) or not self.responses:
            raise DataError('field "responses" must be a list of at least one text; correct the row')
        for number, response in enumerate(self.responses, start=1):
            check_text(response, f'response {number} of field "responses"')

    @property
    def texts(self) -> list[str]:
        """The responses."""
        return self.responses if self.responses is not None else [str(self.response)]

    def record(self) -> dict[str, Any]:
        """Returns the row for JSON: prompt, response or responses, ranks if any, and further fields."""
        own = {"prompt": self.prompt, "response": self.response, "responses": self.responses, "ranks": self.ranks}
        return {name: value for name, value in own.items() if value is not None} | self.extra


@dataclass
class ScoreData:
    """The rows.

    Args:
        path: file, folder or hub id of rows with a prompt and one or several responses.
        format: layout of the rows; auto detects it.
        on_bad_row: stop at a bad row, or skip it and write it to <out>.bad.jsonl with the reason.
        limit: use only this many, from the start.
        fields: field of the layout -> its name in the file, such as {prompt: question, response: answer}.
    """

    path: str
    format: str = "auto"
    on_bad_row: Literal["error", "skip"] = "error"
    limit: int | None = None
    fields: dict[str, str] | None = None

    def rows(self, bad_rows: BadRows) -> Iterator[ScorableRow]:
        """Streams the rows."""
        found = stream_rows(
            self.path,
            ScorableRow,
            layout=self.format,
            fields=self.fields,
            split=None,
            on_bad_row=self.on_bad_row,
            bad_rows=bad_rows,
        )
        return islice(found, self.limit)

    def readable_rows(self, bad_rows: BadRows, prompter: Prompter) -> Iterator[ScorableRow]:
        """Streams the rows whose prompts a model can read; its chat template may refuse some."""
        for row in self.rows(bad_rows):
            try:
                prompter.prompt_ids(row.prompt)
            except RunawayTemplateError:
                raise
            except UserError as error:
                if self.on_bad_row == "error":
                    raise UserError(f"{row.where}: {error}") from error
                bad_rows.add(row.where, str(error), row.record())
            else:
                yield row


@dataclass
class ScoreOptions:
    """Adds a reward model's scores to the rows of a file; the same command resumes an interrupted run.

    Args:
        run: run folder such as runs/demo, its stage folder runs/demo/rm, or any sequence classifier with one output.
        data: the rows.
        out: file to write, .jsonl; each line is a row followed by the field `reward` (one response) or `rewards` (a
            list in the order of the responses).
        field: another name for that field.
        batch_tokens: maximum number of tokens per batch.
        dtype: dtype of the weights; in bfloat16 a score depends slightly on the rows in its batch.
        quantize: bits of the model's base: none, 8bit or 4bit; null uses those of its stage.
    """

    run: str
    data: ScoreData
    out: str
    field: str | None = None
    batch_tokens: int = BATCH_TOKENS
    dtype: DtypeName = "auto"
    quantize: Quantize | None = None

    def __post_init__(self) -> None:
        """Checks sizes and files."""
        if self.batch_tokens < 1:
            raise UserError(f"--batch_tokens={self.batch_tokens}: must be at least 1")
        out, source = Path(expand_home(self.out)), Path(expand_home(self.data.path))
        if not out.parent.is_dir():
            raise UserError(f"--out={self.out}: no such folder; make it first")
        if source.exists() and (out.resolve() == source.resolve() or source.resolve() in out.resolve().parents):
            raise UserError(f"--out={self.out}: it is one of the files to score (--data.path); name another")


def score(
    run: str | Path,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    batch_tokens: int = BATCH_TOKENS,
    dtype: DtypeName = "auto",
    quantize: Quantize | None = None,
) -> list[float]:
    """Returns the reward of each response, as PPO and `lit-instruct rm score` see it; higher is better.

    Every call opens the model; to score often, keep a `lit_instruct.rollouts.text_reward.TextReward`.

    Args:
        run: run folder such as runs/demo, its stage folder runs/demo/rm, or any sequence classifier with one output.
        prompts: B prompts, each a text or a list of messages.
        responses: B texts.
        batch_tokens: maximum number of tokens per batch.
        dtype: of the weights; auto is bfloat16 on GPUs that compute in it, on a CPU if it is fast.
        quantize: bits of the model's base; None uses those of its stage.

    Raises:
        UserError: there is no such reward model.
        ValueError: the numbers of prompts and responses differ.
    """
    model = TextReward.from_source(reward_source(str(run)), dtype, quantize)
    return model.score(prompts, responses, batch_tokens)


def score_file(options: ScoreOptions) -> Path:
    """Writes the rows with their scores and returns the file.

    All rows are checked before the model is loaded.

    Raises:
        UserError: rows or model cannot be used, or `out` holds anything but the beginning of this result.
    """
    out = Path(options.out)
    for row in options.data.rows(BadRows()):
        _line(row, options.field)
    source = reward_source(options.run)
    model = TextReward.from_source(source, options.dtype, options.quantize)
    with BadRows(out.with_name(f"{out.stem}.bad.jsonl")) as bad:
        total = sum(1 for _ in options.data.readable_rows(bad, model.prompter))
    with ScoredFile(out, source) as file:
        file.expect(total)
        earlier = file.earlier_rows
        try:
            _fill(file, model, options, total)
        except KeyboardInterrupt:
            print(f"\nInterrupted; run the same command to continue {out}.", flush=True)
            raise
    print(f"{out}: {total} rows" + (f", {earlier} of them from an earlier run" if earlier else ""))
    return out


def _fill(file: ScoredFile, model: TextReward, options: ScoreOptions, total: int) -> None:
    """Adds the missing rows; scores the last earlier ones again to check that the model is the same."""
    rows = options.data.readable_rows(BadRows(), model.prompter)
    with Progress("scoring rows", total, keep=False, quiet=SHORT) as progress:
        while window := list(islice(rows, WINDOW)):
            lines = [_line(row, options.field) for row in window]
            earlier = [file.take(*line, row.where) for row, line in zip(window, lines, strict=True) if file.rows_follow]
            if not file.rows_follow:
                scores = _scores(model, window, options.batch_tokens)
                file.check(earlier, scores)
                file.write([(*line, score) for line, score in zip(lines, scores, strict=True)][len(earlier) :])
            progress.update(progress.done + len(window))


def _line(row: ScorableRow, field: str | None) -> tuple[dict[str, Any], str]:
    """The row for JSON and the name of its score's field; raises UserError if the row already has such a field."""
    record = row.record()
    name = field or ("reward" if row.responses is None else "rewards")
    if name in record:
        raise UserError(f"{row.where}: the row already has a field {name!r}; choose another with --field")
    return record, name


def _scores(model: TextReward, window: Sequence[ScorableRow], batch_tokens: int) -> list[Scores]:
    rewards = model.score_ids([_ids(model, row) for row in window], batch_tokens)
    scores = [[round(reward, 6) for reward in found] for found in rewards]
    return [found[0] if row.responses is None else found for row, found in zip(window, scores, strict=True)]


def _ids(model: TextReward, row: ScorableRow) -> list[list[int]]:
    """Token ids of each of the row's responses, after the prompt."""
    try:
        sequences = [model.ids(row.prompt, text) for text in row.texts]
    except UserError as error:  # such as a chat template that refuses these messages
        raise UserError(f"{row.where}: {error}") from error
    longest = max(map(len, sequences))
    if longest > model.max_length:
        raise UserError(
            f"{row.where}: prompt and response have {longest} tokens, the model reads at most {model.max_length}; "
            "shorten the row or leave it out"
        )
    return sequences
