"""The comparisons of a round: responses of the policies to fresh prompts, ranked by a labeler or by people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lit_instruct.commands.sample import ranking_columns, write_jsonl
from lit_instruct.commands.self_agreement import write_report
from lit_instruct.errors import UserError
from lit_instruct.files import digest, json_text, write_text
from lit_instruct.iterating.fresh import HELD_OUT
from lit_instruct.iterating.options import PEOPLE, IterateOptions
from lit_instruct.iterating.people import ranked_by_people
from lit_instruct.iterating.rounds import Round, policies_before
from lit_instruct.rollouts.labelers import Labeler, labeler_of
from lit_instruct.running.own_process import Run

Record = dict[str, Any]
SAMPLES = "samples.jsonl"


class Writer(NamedTuple):
    """A policy that answers some of a round's prompts."""

    policy: Path
    k: int
    """Responses to each of them."""
    rows: Sequence[int]
    """Numbers of the prompts."""


def make_comparisons(one: Round, prompts: Sequence[Record], options: IterateOptions, sft: Path, run: Run) -> None:
    """Writes train.jsonl and held_out.jsonl of a round, unless they are there.

    What is there already, responses and rankings, is never made again: people's work would be lost.

    Args:
        one: the round.
        prompts: its fresh prompts.
        options: of the loop.
        sft: stage folder of the SFT model.
        run: runs a command.

    Raises:
        UserError: the responses that are there are of other policies, or a step failed.
        KeyboardInterrupt: it was interrupted; the next call goes on.
    """
    folder = one.comparisons
    folder.mkdir(parents=True, exist_ok=True)
    writers = writers_of(one, len(prompts), options, sft)
    _check_made_from(folder, {str(writer.policy): digest(writer.policy) for writer in writers})
    if one.train.is_file() and one.held_out.is_file():
        return
    if not (folder / SAMPLES).is_file():
        parts = [_sampled(folder, i, writer, prompts, one, options, run) for i, writer in enumerate(writers)]
        write_jsonl(
            folder / SAMPLES, [row for row in map(_joined, zip(*_padded(parts, len(prompts)), strict=True)) if row]
        )
    if not (folder / "ranked.jsonl").is_file():
        rows = _read(folder / SAMPLES)
        if options.labeler == PEOPLE:
            found = ranked_by_people(folder, options)
        else:
            labeler = labeler_of(options.labeler, options.noise)
            found = ranked_by(rows, labeler)
            write_report(folder / "ranked.jsonl", labeler)
        write_jsonl(folder / "ranked.jsonl", [row | {"round": one.number} for row in found])
    _split(one, _read(folder / "ranked.jsonl"))


def writers_of(one: Round, count: int, options: IterateOptions, sft: Path) -> list[Writer]:
    """Returns which policies answer the prompts of a round: the newest, and by option SFT and older ones.

    Args:
        one: the round.
        count: number of its prompts.
        options: of the loop.
        sft: stage folder of the SFT model.
    """
    *_, newest = policies = policies_before(one, sft)
    older = policies[1:-1]
    from_sft = options.from_sft if one.number else 0
    from_older = options.from_older if older else 0
    everything = range(count)
    found = [Writer(newest, options.k - from_sft - from_older, everything)]
    found += [Writer(sft, from_sft, everything)] if from_sft else []
    turns = [[i for i in everything if i % len(older) == turn] for turn in range(len(older))] if from_older else []
    return found + [Writer(older[turn], from_older, rows) for turn, rows in enumerate(turns) if rows]


def ranked_by(rows: Sequence[Record], labeler: Labeler) -> list[Record]:
    """Returns rows with the ranks, scores and name of a labeler, without those that it could not judge.

    Args:
        rows: {prompt, responses, ...}.
        labeler: ranks them.

    Raises:
        UserError: it fails.
    """
    columns = [{name: value for name, value in row.items() if name not in ("prompt", "responses")} for row in rows]
    rankings = labeler.ranked([row["prompt"] for row in rows], [row["responses"] for row in rows], columns)
    found = [
        row | ranking_columns(ranking, labeler.name)
        for row, ranking in zip(rows, rankings, strict=True)
        if ranking is not None
    ]
    if left_out := len(rows) - len(found):
        print(f"labeler: {left_out} of {len(rows)} prompts could not be judged, and are left out", flush=True)
    return found


def _check_made_from(folder: Path, policies: dict[str, str]) -> None:
    path = folder / "made_from.json"
    if not path.is_file():
        write_text(path, json_text(policies), "--run")
    elif json.loads(path.read_text(encoding="utf-8")) != policies:
        raise UserError(
            f"{folder}: these responses are of policies that have changed since ({', '.join(policies)}); remove "
            f"{folder.parent} and the rounds after it to make them again, or name another folder with --run"
        )


def _sampled(
    folder: Path, number: int, writer: Writer, prompts: Sequence[Record], one: Round, options: IterateOptions, run: Run
) -> dict[int, Record]:
    """Prompt number -> row of a writer's responses; they are sampled unless they are there."""
    asked, out = folder / f"prompts-{number}.jsonl", folder / f"sampled-{number}.jsonl"
    if not out.is_file():
        write_jsonl(asked, [prompts[i] for i in writer.rows])
        words = ["sample", f"--run={writer.policy}", f"--data.path={asked}", f"--out={out}", f"--k={writer.k}"]
        words += ["--labeler=null", f"--batch_size={options.batch_size}"]
        words += [f"--seed={options.seed + 1000 * one.number + number}"]
        words += [f"--sampling.{name}={json.dumps(value)}" for name, value in vars(options.sampling).items()]
        run(words, one.folder / "sample.log")
    rows = _read(out)
    return {
        i: row | {"runs": [str(writer.policy)] * len(row["responses"])}
        for i, row in zip(writer.rows, rows, strict=True)
    }


def _padded(parts: Sequence[dict[int, Record]], count: int) -> list[list[Record | None]]:
    return [[part.get(i) for i in range(count)] for part in parts]


def _joined(rows: Sequence[Record | None]) -> Record | None:
    """One row from those of several writers, without repeated responses; None if fewer than two are left."""
    known = [row for row in rows if row is not None]
    texts: dict[str, str] = {}
    for row in known:
        for text, policy in zip(row["responses"], row["runs"], strict=True):
            if text.strip():
                texts.setdefault(text, policy)
    return known[0] | {"responses": [*texts], "runs": [*texts.values()]} if len(texts) >= 2 else None


def _split(one: Round, rows: Sequence[Record]) -> None:
    apart: dict[bool, list[Record]] = {False: [], True: []}
    for row in rows:
        apart[bool(row[HELD_OUT])].append({name: value for name, value in row.items() if name != HELD_OUT})
    for path, own in ((one.train, apart[False]), (one.held_out, apart[True])):
        if not any(len(set(row["ranks"])) > 1 for row in own):
            raise UserError(
                f"{one.comparisons}: no two responses of its {path.stem} part are ranked differently; raise "
                "--prompts.per_round or --k in another run"
            )
        write_jsonl(path, own)


def _read(path: Path) -> list[Record]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
