"""Measures findings one after the other, or resumes where an earlier call stopped, and tells what is left."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evidence import findings
from evidence.context import Context
from evidence.origin import INSTALL, fingerprint, missing
from evidence.result import ANSWERS, Result, read_result, write_result
from lit_instruct.errors import UserError
from lit_instruct.files import write_text
from lit_instruct.progress import in_words


@dataclass(frozen=True)
class Measuring:
    """Measures findings in one folder of runs.

    Args:
        context: of all findings.
        results: where complete results are written.
        clock: seconds; for tests.
    """

    context: Context
    results: Path
    clock: Callable[[], float] = time.monotonic

    def all(self, names: Sequence[str]) -> dict[str, str]:
        """Measures findings, and returns finding -> reason of those that were not reached."""
        not_reached: dict[str, str] = {}
        say(f"{len(names)} finding{'s' if len(names) > 1 else ''}, {self.left(names)}")
        for number, name in enumerate(names):
            say(f"{number + 1} of {len(names)}, {name}, {self.left([name])}")
            try:
                result, path = self.reached(name)
            except UserError as error:
                not_reached[name] = str(error)
                say(f"{name}: error: {error}")
                continue
            spent, after = in_words(result["seconds"]), names[number + 1 :]
            following = f"; next {after[0]}, in all {self.left(after)}" if after else ""
            print(f"{name}: {result['verdict']}", flush=True)
            say(f"{name} {ANSWERS[result['holds']]}, measured in {spent}, written to {path}{following}")
        return not_reached

    def reached(self, name: str) -> tuple[dict[str, Any], Path]:
        """Returns a finding's result and its file; it is measured unless this folder of runs has it already.

        Raises:
            UserError: it cannot be measured here; no file is written then.
        """
        if self.kept(name) is None:
            write_result(self.measured(name), self._kept(name).parent)
        path = self.results / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path != self._kept(name):
            write_text(path, self._kept(name).read_text(encoding="utf-8"), "--results")
        return read_result(path), path

    def kept(self, name: str) -> dict[str, Any] | None:
        """Returns the result of an earlier call with the same code, recipes, data and options, if there is one."""
        try:
            found = read_result(self._kept(name))
        except UserError:
            return None
        return found if found["fingerprint"] == fingerprint(name, self.context) else None

    def measured(self, name: str) -> Result:
        """Measures a finding, with the seconds of earlier calls that were interrupted added to its own."""
        made_from = fingerprint(name, self.context)
        module = findings.module_of(name)
        if absent := missing(name, getattr(module, "PACKAGES", ())):
            raise UserError(f"needs the package {' and '.join(absent)}; install it with {INSTALL}")
        if self.context.source not in (known := getattr(module, "SOURCES", ("packages",))):
            why = getattr(module, "NO_HUB", "")
            raise UserError(
                f"takes its data from {known[0]} alone{why and f', {why}'}; run it with --source={known[0]}"
            )
        before, started = self.spent(name), self.clock()
        try:
            found = module.measure(self.context)
        finally:
            seconds = round(before + self.clock() - started, 1)
            self._folder(name).mkdir(parents=True, exist_ok=True)
            write_text(self._folder(name) / "seconds.json", json.dumps(seconds), "--runs")
        return replace(found, seconds=seconds, fingerprint=made_from)

    def spent(self, name: str) -> float:
        """Returns the seconds that a finding took here so far."""
        try:
            return float(json.loads((self._folder(name) / "seconds.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return 0.0

    def left(self, names: Sequence[str]) -> str:
        """Returns about how long findings will take, by what they took when they were last measured."""
        known: list[float] = []
        for name in names:
            if self.kept(name) is not None:
                known.append(0.0)
            elif (seconds := self.recorded(name)) is not None:
                known.append(max(0.0, seconds - self.spent(name)))
        if not known:
            return "not measured before"
        if not any(known) and len(known) == len(names):
            return "measured already"
        return f"{'about' if len(known) == len(names) else 'more than'} {in_words(sum(known))} left"

    def recorded(self, name: str) -> float | None:
        """Returns the seconds that a finding took when it was last measured completely, here or elsewhere."""
        for path in (self._kept(name), self.results / f"{name}.json"):
            try:
                return float(read_result(path)["seconds"])
            except UserError:
                continue
        return None

    def _folder(self, name: str) -> Path:
        return self.context.runs / name

    def _kept(self, name: str) -> Path:
        return self.context.runs / "results" / f"{name}.json"


def say(line: str) -> None:
    """Prints a line about progress on standard error."""
    print(f"evidence: {line}", file=sys.stderr, flush=True)
