"""`lit-instruct iterate`: rounds of comparisons, reward model, PPO and evaluation, and what they came to."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from lit_instruct.files import cannot_write, digest, locked
from lit_instruct.iterating.comparisons import make_comparisons
from lit_instruct.iterating.figures import figures_of
from lit_instruct.iterating.fresh import fresh_prompts
from lit_instruct.iterating.matrix import accuracies
from lit_instruct.iterating.options import PEOPLE, IterateOptions
from lit_instruct.iterating.page import write_page
from lit_instruct.iterating.people import check_people
from lit_instruct.iterating.record import Record, check_sft, checked_folder
from lit_instruct.iterating.rounds import Round, policies_before
from lit_instruct.progress import in_words
from lit_instruct.rollouts.labelers import labeler_of
from lit_instruct.running.own_process import Run, in_own_process, run_once, run_stage
from lit_instruct.terminal import printable

STEPS = {
    "comparisons": "comparisons/held_out.jsonl",
    "rm": "rm/stage.json",
    "ppo": "ppo/stage.json",
    "eval": "eval/report.json",
    "matrix": None,
}
"""Steps of a round in their order, and the file in its folder that each of them writes last."""


def iterate(options: IterateOptions, run: Run = in_own_process) -> Path:
    """Runs the rounds that are missing, writes rounds.json and rounds.html, and returns the latter.

    Every step is a command of lit-instruct in a process of its own. A step that is complete is not repeated, one that
    was interrupted or killed goes on from its last checkpoint.

    Args:
        options: of the loop.
        run: runs a command; for tests.

    Raises:
        UserError: options, data or models cannot be used, the folder was begun with something else, or a step failed.
        KeyboardInterrupt: it was interrupted; the same command goes on.
    """
    folder = checked_folder(options)
    sft = check_sft(options)
    check_people(options) if options.labeler == PEOPLE else labeler_of(options.labeler, options.noise)
    prompts = fresh_prompts(options.prompts, options.seed, sft, options.rounds)
    record = Record(options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        busy = f"{folder}: another process runs these rounds; wait until it ends, or name another folder with --run"
        with locked(folder / ".lock", busy), ended_by_sigterm():
            record.write()  # what a killed loop was begun with
            loop = Loop(options, sft, record, run)
            for number in range(options.rounds):
                loop.run_round(Round(folder, number), prompts[number])
                page = write_page(options, record.content)
    except OSError as error:
        raise cannot_write(folder, error) from error
    print(f"rounds: {page}")
    return page


@dataclass
class Loop:
    """Runs rounds."""

    options: IterateOptions
    sft: Path
    record: Record
    run: Run

    def run_round(self, one: Round, prompts: Sequence[dict[str, Any]]) -> None:
        """Runs the steps of a round that are missing, and takes its figures down."""
        options = self.options
        with self.step(one, "comparisons"):
            make_comparisons(one, prompts, options, self.sft, self.run)
        with self.step(one, "rm"):
            self._train("rm", one, [f"--model.base={self.sft}", *comparison_options(one, options)])
        with self.step(one, "ppo"):
            start = self.sft if options.start == "sft" else policies_before(one, self.sft)[-1]
            self._train("ppo", one, [f"--model.base={start}", f"--model.reward.model={one.rm}"])
        with self.step(one, "eval"):
            self._evaluate(one)
        with self.step(one, "matrix"):
            matrix = accuracies([*one.earlier(), one], self.run, options.seed)
        figures = figures_of(one, matrix, options.seed)
        self.record.set_round(one.number, figures, matrix)
        self.record.write()
        print(printable(line_of(figures)), flush=True)
        for warning in figures["warnings"]:
            print(printable(f"warning: {warning}"), flush=True)

    def _train(self, name: Literal["rm", "ppo"], one: Round, words: Sequence[str]) -> None:
        config, more = getattr(self.options.stages, name), getattr(self.options.stages, f"{name}_options")
        seed = f"--seed_everything={self.options.seed + one.number}"
        run_stage(name, Path(config), one.folder, [*words, seed, *more], self.run, tell=lambda line: None)

    def _evaluate(self, one: Round) -> None:
        stages = self.options.stages
        words = ["eval", "--config", stages.eval, f"--systems.sft={self.sft}", f"--systems.ppo={one.ppo}"]
        words += [f"--reference={self.sft}", f"--reward_model={one.rm}", f"--out={one.eval}", *stages.eval_options]
        made_from = {name: digest(path) for name, path in {"sft": self.sft, "rm": one.rm, "ppo": one.ppo}.items()}
        run_once(words, one.eval / "report.json", made_from, one.folder / "eval.log", self.run)

    @contextmanager
    def step(self, one: Round, name: str) -> Iterator[None]:
        """Says what is done now and how much time is left, and adds the seconds of the step to the record."""
        seconds, count = self.record.content["seconds"], self.options.rounds
        spent, result = self.record.seconds(one.number), STEPS[name]
        if not (one.folder / result).is_file() if result is not None else name not in spent:
            place = list(STEPS).index(name) + 1 + len(STEPS) * one.number
            left = time_left(seconds, one.number, name, count)
            told = f", about {in_words(left)} left" if left else ""
            where = f"{one.name} ({one.number + 1} of {count})"
            print(f"{where}: {name}, step {place} of {len(STEPS) * count}{told}", flush=True)
        started = time.monotonic()
        try:
            yield
        finally:
            spent[name] = round(spent.get(name, 0.0) + time.monotonic() - started, 1)
            self.record.write()


def comparison_options(one: Round, options: IterateOptions) -> list[str]:
    """Returns the options of the reward model that name the comparisons of all rounds so far.

    With weights the rows are drawn in their proportions, without repetition (`data_modules.reading.sources.mix`).

    Args:
        one: the round.
        options: of the loop.
    """
    rounds = [*one.earlier(), one]
    paths = [str(other.train) for other in rounds]
    if options.weights is not None and len(rounds) > 1:
        last = len(options.weights) - 1
        paths = [
            f"{path}@{options.weights[min(one.number - other.number, last)]:g}"
            for path, other in zip(paths, rounds, strict=True)
        ]
    held_out = ",".join(str(other.held_out) for other in rounds)
    return [f"--data.path={','.join(paths)}", f"--data.validation_path={held_out}"]


def time_left(seconds: Sequence[Mapping[str, float]], number: int, name: str, rounds: int) -> float | None:
    """Returns about how long the rest takes by the last round that had each step; None before the first was complete.

    Args:
        seconds: step -> seconds of each round so far.
        number: of the present round.
        name: of the present step.
        rounds: number of rounds in all.
    """
    if number == 0:
        return None
    known = seconds[number - 1]
    here = sum(known.get(step, 0.0) for step in list(STEPS)[list(STEPS).index(name) :])
    return here + (rounds - 1 - number) * sum(known.values())


def line_of(figures: Mapping[str, Any]) -> str:
    """Returns the main figures of a round in a line."""
    policy, before = figures["policy"], figures["newest_policy"]["by_the_model_before"]
    told = [f"{figures['judge']} {policy['labeler']['mean']:+.2f}"]
    told += [f"KL {policy['kl']['mean']:.2f} nats"] if "kl" in policy else []
    told += [f"{policy['length']['mean']:.0f} tokens", f"distinct-2 {policy['distinct_2']['mean']:.2f}"]
    own = figures["newest_policy"]["by_its_own_model"]
    told += [f"pair accuracy {own['value']:.2f}"] if own is not None else []
    told += [f"(the model before: {before['value']:.2f})"] if before is not None else []
    return f"round {figures['round']}: {', '.join(told)}"


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM end the command as Ctrl-C does, and with it the stage that is training."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
