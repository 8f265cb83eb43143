"""`python -m evidence.rounds`: rounds of comparisons, reward model and PPO against one long PPO run.

Both get the same prompts and as many comparisons and episodes; in the rounds, later comparisons are of the newest
policy's responses. For each seed it runs `lit-instruct iterate` with recipes/demo/iterate.yaml, once as it is and once
with all of it in one round, or resumes that, and writes recipes/demo/results/rounds-SEED.json. From these files
`python -m evidence.page` makes the table of the pages.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evidence import ROOT
from evidence.equal_kl import Validations, gain_at_equal_kl, read_validations
from evidence.stages import run_stage
from lit_instruct.errors import UserError
from lit_instruct.evaluation.measures import bootstrap, rounded
from lit_instruct.files import json_text, write_text
from lit_instruct.iterating.matrix import accuracy_of
from lit_instruct.iterating.record import FILE, read_record
from lit_instruct.machine import provenance
from lit_instruct.running import own_process
from lit_instruct.running.own_process import run_once

RECIPE = ROOT / "recipes/demo"
RESULTS = RECIPE / "results"
LAST_PROMPTS = 100
"""Held-out prompts on which the last policy's responses are compared."""
GOAL = 0.10
"""Gain at equal KL that the rounds should have at every seed."""
CLEAR = 0.05
"""Least difference of the accuracies of the last and the first reward model that can be seen."""

run_command = partial(own_process.in_own_process, folder=ROOT)


def main(words: Sequence[str] | None = None) -> int:
    """Measures the seeds that are named; returns 0, or 2 after a mistake."""
    given = parse(words)
    try:
        for seed in given.seeds:
            path = given.results / f"rounds-{seed}.json"
            found = measured(given.runs / f"seed-{seed}", seed, given.options)
            write_text(path, json_text(found), "--results")
            print(f"seed {seed}: {found['verdict']}\nwritten to {path}", flush=True)
    except UserError as error:
        print(f"rounds: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rounds: interrupted; the same command resumes it", file=sys.stderr)
        return own_process.EXIT_CODE
    return 0


def parse(words: Sequence[str] | None = None) -> Namespace:
    """Returns the options; those that are not known here are options of `lit-instruct iterate`."""
    epilog = "Further options are those of lit-instruct iterate, such as --rounds=2."
    parser = ArgumentParser(prog="python -m evidence.rounds", description=__doc__, epilog=epilog, allow_abbrev=False)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/rounds", help="folder of the trainings")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    given, options = parser.parse_known_args(words)
    given.options = options
    return given


def measured(folder: Path, seed: int, more: Sequence[str] = ()) -> dict[str, Any]:
    """Trains what is missing of a seed and returns its result.

    Args:
        folder: of its runs.
        seed: of all random numbers.
        more: further options of both loops.

    Raises:
        UserError: a step failed.
        KeyboardInterrupt: it was interrupted; the next call resumes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spent = Spent(folder / "seconds.json")
    words = ["iterate", "--config", str(RECIPE / "iterate.yaml"), f"--sft={folder / 'sft'}", f"--seed={seed}", *more]
    with spent:
        run_stage("sft", RECIPE / "sft.yaml", folder, [f"--seed_everything={seed}"])
        run_command([*words, f"--run={folder / 'rounds'}"], folder / "rounds.log")
        loop = read_record(folder / "rounds" / FILE)
        run_command([*words, *in_one_round(loop), f"--run={folder / 'single'}"], folder / "single.log")
        run_command([*words, f"--compare={folder / 'single'}", f"--run={folder / 'rounds'}"], folder / "rounds.log")
        last = last_comparisons(folder, loop)
    return result(folder, seed, len(loop["rounds"]), last) | {"seconds": spent.seconds}


def in_one_round(loop: dict[str, Any]) -> list[str]:
    """Returns the options of a single round with as many comparisons and iterations of PPO as a loop has in all.

    Args:
        loop: content of its rounds.json.
    """
    options, rounds, name = loop["made_from"]["options"], len(loop["rounds"]), "--model.iterations="
    each = [word.removeprefix(name) for word in options["stages"]["ppo_options"] if word.startswith(name)]
    more = [f"--prompts.per_round={rounds * options['prompts']['per_round']}"]
    return ["--rounds=1", *more, f"--stages.ppo_options+={name}{rounds * int(each[-1])}"]


def last_comparisons(folder: Path, loop: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the last policy's ranked responses to held-out prompts, scored by the first and the last reward model."""
    options, last = loop["made_from"]["options"], len(loop["rounds"]) - 1
    policy, prompts = folder / f"rounds/round-{last}/ppo", RECIPE / "data/prompts_validation.jsonl"
    out = folder / "last.jsonl"
    words = ["sample", f"--run={policy}", f"--data.path={prompts}", f"--data.limit={LAST_PROMPTS}", f"--out={out}"]
    words += [f"--k={options['k']}", f"--labeler={options['labeler']}", "--seed=77"]
    words += [f"--sampling.max_new_tokens={options['sampling']['max_new_tokens']}"]
    run_once(words, out, own_process.named_files([str(policy)]), folder / "last.log", run_command)
    found = {}
    for name, number in (("first", 0), ("last", last)):
        model, scored = folder / f"rounds/round-{number}/rm", folder / f"last-by-{name}.jsonl"
        words = ["rm", "score", f"--run={model}", f"--data.path={out}", f"--out={scored}"]
        run_once(
            words, scored, own_process.named_files([str(out), str(model)]), folder / f"last-by-{name}.log", run_command
        )
        found[name] = [json.loads(line) for line in scored.read_text(encoding="utf-8").splitlines()]
    return found


def result(folder: Path, seed: int, rounds: int, last: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Returns the result of a seed from what its runs left.

    Args:
        folder: of its runs.
        seed: of the bootstrap too.
        rounds: how many there are.
        last: of `last_comparisons`.
    """
    loop, single = (json.loads((folder / name / "rounds.json").read_text("utf-8")) for name in ("rounds", "single"))
    curves = {
        name: read_validations(folder / place / "ppo/logs/samples.jsonl")
        for name, place in (("rounds", f"rounds/round-{rounds - 1}"), ("single", "single/round-0"))
    }
    gain = gain_at_equal_kl(curves["rounds"], curves["single"], seed)
    difference = accuracy_difference(last["last"], last["first"], seed)
    own = {name: accuracy_of(rows, seed) for name, rows in last.items()}
    found = {
        "seed": seed,
        "rounds": loop["rounds"],
        "single": single["rounds"][0],
        "matrix": loop["matrix"],
        "curves": {name: curve_record(curve) for name, curve in curves.items()},
        "equal_kl": gain,
        "last_policy": {**own, "last_minus_first": difference},
        "goals": {"gain_at_equal_kl": GOAL, "last_minus_first": CLEAR},
    }
    return found | {"verdict": verdict(found)} | provenance()


def curve_record(curve: Validations) -> dict[str, Any]:
    """Returns the mean KL and score of each validation, for JSON."""
    return {
        "iteration": curve.iterations,
        "kl": [round(float(value), 4) for value in curve.kl.mean(axis=1)],
        "labeler": [round(float(value), 4) for value in curve.score.mean(axis=1)],
    }


def accuracy_difference(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Returns how much more pairs one model orders as labelled than another, mean over comparisons, with its interval.

    Args:
        ours: {ranks, rewards} of each comparison by one model.
        theirs: the same comparisons by the other model.
        seed: of the bootstrap.
    """
    shares = [[one["value"] for row in rows if (one := accuracy_of([row], seed))] for rows in (ours, theirs)]
    return rounded(bootstrap([a - b for a, b in zip(*shares, strict=True)], seed))


def verdict(found: dict[str, Any]) -> str:
    """Returns in two sentences whether the goals were reached."""
    gain, last = found["equal_kl"], found["last_policy"]
    if gain is None:
        first = "The two never reach the same KL, so that their scores cannot be compared."
    else:
        reached = "reach" if gain["mean"] >= GOAL else "miss"
        first = (
            f"At a KL of {gain['kl']:.2f} nats the rounds score {gain['mean']:+.2f} ({gain['ci_low']:+.2f} to "
            f"{gain['ci_high']:+.2f}) against the single run: they {reached} the goal of {GOAL:+.2f}."
        )
    difference = last["last_minus_first"]
    seen = "visibly lower than" if difference["mean"] >= CLEAR and difference["ci_low"] > 0 else "not clearly below"
    return (
        f"{first} On the last policy's comparisons the first reward model orders {last['first']['value']:.2f} of the "
        f"pairs as labelled, {seen} the last one's {last['last']['value']:.2f}."
    )


class Spent:
    """Adds the seconds of a block to those of earlier calls, in a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds = float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.seconds = round(self.seconds + time.monotonic() - self.started, 1)
        write_text(self.path, json.dumps(self.seconds), "--runs")


if __name__ == "__main__":
    sys.exit(main())
