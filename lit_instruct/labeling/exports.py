"""Rankings as rows of other programs, one function a layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Literal

from data_modules.formats.labeling_tools import argilla_user
from lit_instruct.labeling.rankings import Ranked
from lit_instruct.prompting import Prompt

Format = Literal["ranked", "trl", "nemo-rl", "argilla", "label-studio"]
Record = dict[str, Any]


def _ranked(found: Sequence[Ranked]) -> Iterator[Record]:
    """Our rows, which `rm fit` reads; scores are the overall quality where the labeler gave it to all responses."""
    for one in found:
        row = {**one.columns, "prompt": one.prompt, "responses": one.texts, "ranks": one.ranks}
        if one.quality is not None and None not in one.quality:
            row["scores"] = one.quality
        more = {"quality": one.quality, "flags": one.flags, "seconds": one.seconds}
        row |= {name: value for name, value in more.items() if value is not None}
        for name, values in (
            ("runs", [w.run for w in one.responses]),
            ("versions", [w.version for w in one.responses]),
        ):
            if any(values):
                row[name] = values
        yield row | {"labeler": one.labeler} | one.more


def _trl(found: Sequence[Ranked]) -> Iterator[Record]:
    """Preference pairs of TRL, one for each two responses that are not tied; messages if the prompt has any."""
    for one in found:
        for i, j in combinations(range(len(one.ranks)), 2):
            if one.ranks[i] != one.ranks[j]:
                better, worse = (i, j) if one.ranks[i] < one.ranks[j] else (j, i)
                chosen, rejected = (_said(one.prompt, one.texts[number]) for number in (better, worse))
                yield {"prompt": one.prompt, "chosen": chosen, "rejected": rejected, "labeler": one.labeler}


def _nemo_rl(found: Sequence[Ranked]) -> Iterator[Record]:
    """Completions with a rank from 0, the best."""
    for one in found:
        completions = [
            {"rank": rank - 1, "completion": _messages(text)} for rank, text in zip(one.ranks, one.texts, strict=True)
        ]
        context = [{"role": "user", "content": one.prompt}] if isinstance(one.prompt, str) else one.prompt
        yield {"context": context, "completions": completions, "labeler": one.labeler}


def _argilla(found: Sequence[Ranked]) -> Iterator[Record]:
    """Records of a FeedbackDataset: fields prompt and response-1 to response-K, and a ranking question `preference`."""
    for task, of_task in _by_task(found).items():
        first = of_task[0]
        names = [f"response-{number}" for number in range(1, len(first.texts) + 1)]
        responses = [
            {
                "user_id": argilla_user(one.labeler),
                "values": {
                    "preference": {"value": [{"rank": r, "value": n} for r, n in zip(one.ranks, names, strict=True)]}
                },
                "status": "submitted",
            }
            for one in of_task
        ]
        fields = {"prompt": as_text(first.prompt), **dict(zip(names, first.texts, strict=True))}
        metadata = {"labelers": [one.labeler for one in of_task]}
        yield {"external_id": str(task), "fields": fields, "metadata": metadata, "responses": responses}


def _label_studio(found: Sequence[Ranked]) -> Iterator[Record]:
    """Tasks with a List `items` and a Ranker whose buckets, the best first, hold tied responses."""
    for task, of_task in _by_task(found).items():
        first = of_task[0]
        items = [{"id": str(n), "title": f"Response {n + 1}", "body": text} for n, text in enumerate(first.texts)]
        annotations = [{"lead_time": one.seconds, "was_cancelled": False, "result": [_ranker(one)]} for one in of_task]
        yield {"id": task, "data": {"prompt": as_text(first.prompt), "items": items}, "annotations": annotations}


def _ranker(one: Ranked) -> Record:
    buckets: dict[str, list[str]] = {}
    for rank, number in sorted(zip(one.ranks, range(len(one.ranks)), strict=True)):
        buckets.setdefault(f"rank-{rank}", []).append(str(number))
    place = {"from_name": "rank", "to_name": "responses", "type": "ranker"}
    return {**place, "value": {"ranker": buckets}, "meta": {"text": [one.labeler]}}


def _by_task(found: Sequence[Ranked]) -> dict[int, list[Ranked]]:
    by_task: dict[int, list[Ranked]] = {}
    for one in found:
        by_task.setdefault(one.task, []).append(one)
    return by_task


def as_text(prompt: Prompt) -> str:
    """Returns a prompt as labeling tools show it: a conversation of several turns as lines of role and text."""
    if isinstance(prompt, str):
        return prompt
    if [message["role"] for message in prompt] == ["user"]:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _said(prompt: Prompt, text: str) -> Any:
    return text if isinstance(prompt, str) else _messages(text)


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


_BY_FORMAT: dict[str, Callable[[Sequence[Ranked]], Iterable[Record]]] = {
    "ranked": _ranked,
    "trl": _trl,
    "nemo-rl": _nemo_rl,
    "argilla": _argilla,
    "label-studio": _label_studio,
}


def rows_of(found: Sequence[Ranked], layout: Format) -> list[Record]:
    """Returns rankings in a layout; repeated rankings of one labeler are left out, the first of them counts.

    Args:
        found: rankings in the order in which they were saved.
        layout: ranked (`lit-instruct rm fit`), trl (pairs), nemo-rl, argilla or label-studio.
    """
    first: dict[tuple[int, str], Ranked] = {}
    for one in found:
        first.setdefault((one.task, one.labeler), one)
    return list(_BY_FORMAT[layout](list(first.values())))
