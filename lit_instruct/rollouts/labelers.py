"""Labelers that are no people: they rank the K responses to a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lit_instruct.judging.comparisons import Noise, Outcomes, flipped, outcomes_of, ranks, wins
from lit_instruct.judging.judge import JUDGE, Judge
from lit_instruct.prompting import Prompt
from lit_instruct.rollouts.function_forms import Columns, TextScorer
from lit_instruct.rollouts.function_names import Function, function_name
from lit_instruct.rollouts.reward_functions import function_scorer

NO_NOISE = Noise()


class Ranking(NamedTuple):
    """How a labeler ranks the K responses to a prompt."""

    ranks: list[int]
    """1 is the best, equal ranks are ties."""
    scores: list[float] | None
    """Higher is better; None of a labeler that compares responses, and after noise."""


@dataclass
class Labeler:
    """Ranks responses by their scores, or by comparisons, which the noise then disturbs."""

    name: str
    """As rows record it."""
    noise: Noise
    scorer: TextScorer | None
    """None for a judge that compares."""
    judge: Judge | None
    """None for anything but a judge."""

    def ranked(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[Sequence[str]],
        rows: Sequence[Columns] | None = None,
    ) -> list[Ranking | None]:
        """Returns a ranking of the responses to each prompt.

        Scores are rounded to four decimals, so that closer ones are ties.

        Args:
            prompts: B prompts, each a text or messages.
            responses: for each prompt K texts; K may differ.
            rows: further columns of each prompt's row, which functions may read; None for none.

        Returns:
            B rankings; None stands for a prompt that a judge could not judge (only if its file allows that).

        Raises:
            UserError: the labeler fails; the message names the option and the labeler.
        """
        if self.scorer is None:
            assert self.judge is not None
            compared = self.judge.compare(prompts, responses)
            return [self._by_wins(*one) for one in zip(prompts, responses, compared, strict=True)]
        columns = [{} for _ in prompts] if rows is None else rows
        numbers = [number for number, texts in enumerate(responses) for _ in texts]
        flat = [text for texts in responses for text in texts]
        scores = iter(self.scorer([prompts[i] for i in numbers], flat, [columns[i] for i in numbers]))
        return [
            self._by_scores(prompt, texts, [round(next(scores), 4) for _ in texts])
            for prompt, texts in zip(prompts, responses, strict=True)
        ]

    def _by_scores(self, prompt: Prompt, texts: Sequence[str], scores: list[float]) -> Ranking | None:
        if any(map(math.isnan, scores)):
            return None
        return self._by_wins(prompt, texts, outcomes_of(scores)) if self.noise.flip else Ranking(ranks(scores), scores)

    def _by_wins(self, prompt: Prompt, texts: Sequence[str], outcomes: Outcomes | None) -> Ranking | None:
        if outcomes is None:
            return None
        return Ranking(ranks(wins(flipped(outcomes, prompt, texts, self.noise))), None)


def labeler_of(spec: Function, noise: Noise = NO_NOISE, option: str = "--labeler") -> Labeler:
    """Returns the labeler that an option names.

    Args:
        spec: import path of a function or the function itself, `judge:FILE` for a judge, or what else
            `function_scorer` takes.
        noise: disturbs the ranks; it is part of the labeler's name.
        option: by which the user named the labeler, for messages.

    Raises:
        UserError: there is no such labeler.
    """
    name = function_name(spec)
    disturbed = f"{name}, flip {noise.flip:g}, seed {noise.seed}" if noise.flip else name
    if not (isinstance(spec, str) and spec.startswith(JUDGE)):
        return Labeler(disturbed, noise, function_scorer(spec, option=option), None)
    judge = Judge(spec.removeprefix(JUDGE), f"{option} {name}")
    rates = judge.options.by == "rate"
    return Labeler(disturbed, noise, (lambda *given: judge.rate(*given[:2])) if rates else None, judge)
