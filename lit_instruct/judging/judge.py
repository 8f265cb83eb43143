"""A judge: a model behind an OpenAI-compatible address that compares or rates responses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from lit_instruct.errors import UserError
from lit_instruct.judging.agreement import Agreed, agreement
from lit_instruct.judging.cache import AnswerCache, digest
from lit_instruct.judging.client import Client
from lit_instruct.judging.comparisons import Outcomes, outcomes_of
from lit_instruct.judging.judge_file import question, read_judge
from lit_instruct.judging.verdicts import LETTERS, order, preferred, rating
from lit_instruct.progress import SHORT, Progress
from lit_instruct.prompting import Prompt

JUDGE = "judge:"
"""Before the name of a judge's file, wherever a function is named."""
PATH = "/chat/completions"


Showing = tuple[str, ...]
"""Responses in the order in which the judge sees them."""


class Question(NamedTuple):
    """One question to the judge."""

    key: str
    """Its name in the cache."""
    body: dict[str, Any]
    """The request."""
    read: Callable[[str], Any]
    """Answer -> verdict; None if it has none."""


@dataclass
class Tally:
    """What a judge's answers say about the judge itself."""

    swapped: list[Agreed] = field(default_factory=list)
    """For each prompt, how far the answers in both orders of the responses agree."""
    first_wins: int = 0
    """Comparisons that the response shown earlier won."""
    decided: int = 0
    """Comparisons that were no tie."""
    questions: int = 0
    """Different questions."""
    from_cache: int = 0
    """Those that had been answered before."""
    left_out: int = 0
    """Prompts without a usable answer."""

    def add(self, ranks: Sequence[list[int]], swap: bool) -> None:
        """Adds the verdicts on one prompt.

        Args:
            ranks: of the responses of each question, in the order shown.
            swap: whether every second question is the one before it in the opposite order.
        """
        for of_shown in ranks:
            decided = [one < other for one, other in combinations(of_shown, 2) if one != other]
            self.first_wins += sum(decided)
            self.decided += len(decided)
        if swap and ranks:
            self.swapped.append(agreement((a, b[::-1]) for a, b in zip(ranks[::2], ranks[1::2], strict=True)))


class Judge:
    """Asks the judge of a file; answers are kept in its cache.

    Args:
        path: of the file (`JudgeOptions`).
        name: the option and what it names, for messages.

    Raises:
        UserError: the file, its address, key or cache cannot be used.
    """

    def __init__(self, path: str, name: str) -> None:
        self.name = name
        self.options = read_judge(Path(path).expanduser(), name)
        url = self.options.url.rstrip("/")
        self.client = Client(
            url if url.endswith(PATH) else url + PATH,
            name,
            self.options.key,
            self.options.timeout,
            self.options.retries,
            self.options.budget,
        )
        self.cache = AnswerCache(self.options.cache_path(), name)
        self.tally = Tally()

    def rate(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        """Returns the rating of each response on the scale of the file; NaN without a usable answer.

        Raises:
            UserError: the judge gives no answer, or one without a number and the file does not say leave_out.
        """
        scale = (self.options.lowest, self.options.highest)
        asked = [
            self._question("rate", {"prompt": as_text(prompt), "response": response}, partial(rating, scale=scale))
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return [float("nan") if one is None else one for one in self._verdicts(asked)]

    def compare(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[str]]) -> list[Outcomes | None]:
        """Returns the comparisons of the responses to each prompt, by the method `by` of the file: pairs or all.

        Equal texts are asked about once. With `swap` each question is asked in both orders, and the mean counts.

        Args:
            prompts: B prompts.
            responses: for each prompt K texts.

        Returns:
            B comparisons (K, K); None for a prompt with an answer without verdict, if the file says leave_out.

        Raises:
            UserError: the judge gives no answer, or one without verdict and the file does not say leave_out.
        """
        showings = [self._showings(as_text(prompt), texts) for prompt, texts in zip(prompts, responses, strict=True)]
        asked = [
            self._comparison(as_text(prompt), shown)
            for prompt, of_prompt in zip(prompts, showings, strict=True)
            for shown in of_prompt
        ]
        verdicts = iter(self._verdicts(asked))
        return [
            self._outcomes(texts, of_prompt, [next(verdicts) for _ in of_prompt])
            for texts, of_prompt in zip(responses, showings, strict=True)
        ]

    def _showings(self, prompt: str, texts: Sequence[str]) -> list[Showing]:
        """What is shown in each question; the order follows from the texts, not from that in which they were given."""
        drawn = sorted(set(texts), key=lambda text: hashlib.sha256(json.dumps([prompt, text]).encode()).digest())
        if len(drawn) < 2:
            return []
        if len(drawn) > len(LETTERS):
            raise UserError(
                f"{self.name}: {len(drawn)} responses to one prompt; a judge compares {len(LETTERS)} at most"
            )
        showings: list[Showing] = [*combinations(drawn, 2)] if self.options.by == "pairs" else [tuple(drawn)]
        return [turned for shown in showings for turned in ((shown, shown[::-1]) if self.options.swap else (shown,))]

    def _comparison(self, prompt: str, shown: Showing) -> Question:
        if self.options.by == "pairs":
            return self._question("pairs", {"prompt": prompt, "first": shown[0], "second": shown[1]}, preferred)
        values = {"prompt": prompt, "responses": list(zip(LETTERS, shown, strict=False))}
        return self._question("all", values, partial(order, k=len(shown)))

    def _question(self, method: str, values: dict[str, Any], read: Callable[[str], Any]) -> Question:
        message = {"role": "user", "content": question(self.options, method, values)}
        system = [] if self.options.system is None else [{"role": "system", "content": self.options.system}]
        body = {
            "model": self.options.model,
            "messages": [*system, message],
            "temperature": 0,
            "max_tokens": self.options.max_tokens,
            **self.options.body,
        }
        body = {name: value for name, value in body.items() if value is not None}
        return Question(digest(str(self.client.url), body), body, read)

    def _outcomes(
        self, texts: Sequence[str], showings: Sequence[Showing], verdicts: Sequence[list[int] | None]
    ) -> Outcomes | None:
        known = [ranks for ranks in verdicts if ranks is not None]
        if len(known) < len(verdicts):
            self.tally.left_out += 1
            return None
        self.tally.add(known, self.options.swap)
        found: dict[tuple[str, str], list[float]] = {}
        for shown, ranks in zip(showings, known, strict=True):
            outcomes = outcomes_of([-rank for rank in ranks])
            for one, row in zip(shown, outcomes, strict=True):
                for other, outcome in zip(shown, row, strict=True):
                    found.setdefault((one, other), []).append(outcome)
        return [[fmean(found.get((one, other), [0.5])) for other in texts] for one in texts]

    def _verdicts(self, asked: Sequence[Question]) -> list[Any]:
        """The verdict of each question, from the cache or from the judge; None where it has none."""
        answers: dict[str, str | None] = {}
        missing: dict[str, Question] = {}
        for one in asked:
            if one.key not in answers and one.key not in missing:
                known = self.cache.get(one.key)
                if known is None or one.read(known) is None:
                    missing[one.key] = one
                else:
                    answers[one.key] = known
        self.tally.questions += len(answers) + len(missing)
        self.tally.from_cache += len(answers)
        answers |= self._answers(list(missing.values()))
        return [None if (said := answers[one.key]) is None else one.read(said) for one in asked]

    def _answers(self, missing: Sequence[Question]) -> dict[str, str | None]:
        """Asks several questions at a time. If one fails no other is begun; those under way are still kept."""
        self.client.stopped.clear()
        answers: dict[str, str | None] = {}
        name = f"{self.options.model}: answers"
        with (
            Progress(name, len(missing), keep=False, quiet=SHORT) as progress,
            ThreadPoolExecutor(self.options.concurrent, "judge") as pool,
        ):
            asked = {pool.submit(self._answer, one): one.key for one in missing}
            try:
                for done in as_completed(asked):
                    answers[asked[done]] = done.result()
                    progress.update(len(answers))
            except BaseException:
                self.client.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return answers

    def _answer(self, asked: Question) -> str | None:
        record = self.client.post(asked.body)
        said, ending = _text_of(record)
        if asked.read(said) is not None:
            self.cache.put(asked.key, self.options.model, said)
            return said
        if self.options.on_unusable == "leave_out":
            return None
        what = f"ends without a verdict ({said.strip()[-100:]!r})" if said.strip() else "has no text"
        cut = "; the length limit cut it: raise `max_tokens`" if ending == "length" else ""
        raise UserError(
            f"{self.name}: the judge's answer {what}{cut}; correct the template, or leave such prompts out with "
            "`on_unusable: leave_out`"
        )


def as_text(prompt: Prompt) -> str:
    """Returns a prompt as the judge sees it: a text or a single message as it is, a conversation with its roles."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _text_of(record: Any) -> tuple[str, Any]:
    """The text of a chat completion and why it ended; "" if there is none."""
    try:
        choice = record["choices"][0]
        said = choice["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return "", None
    return (said if isinstance(said, str) else ""), choice.get("finish_reason")
