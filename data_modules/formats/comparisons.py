"""Layouts of ranked comparisons (step 2); scores and preferences become ranks, 1 the best, equal ones tied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data_modules.formats.labeling_tools import LABELING_TOOLS
from data_modules.formats.layout import Fields, Layout, Record
from data_modules.formats.messages import (
    as_messages,
    check_text,
    from_dialogue,
    instruction_of,
    is_dialogue,
    kind,
    prompt_of,
    reply_text,
    split_last_turn,
    with_system,
)
from data_modules.formats.ranks import ranks_of_order, ranks_of_scores
from data_modules.formats.scored_rows import SCORED_ROWS
from data_modules.formats.trees import OASST_MESSAGES, OASST_TREES
from lit_instruct.errors import DataError


def _ranked(record: Record) -> Fields:
    prompt = with_system(prompt_of(record["prompt"]), record.get("system"))
    return [{"prompt": prompt, "responses": record["responses"], "ranks": record["ranks"]}]


def _scored(record: Record) -> Fields:
    scores = record["scores"]
    if not isinstance(scores, list):
        raise DataError(f'field "scores" must be a list, not {kind(scores)}; correct the row')
    return _ranked({**record, "ranks": ranks_of_scores(scores, "scores")})


def _nemo_rl(record: Record) -> Fields:
    completions, order = _columns(record, "completions", ("completion", "rank"))
    prompt = as_messages(record["context"], "context")
    responses = [reply_text(completion, "completion") for completion in completions]
    return [{"prompt": prompt, "responses": responses, "ranks": ranks_of_order(order, "rank")}]


def _ultrafeedback(record: Record) -> Fields:
    responses, scores = _columns(record, "completions", ("response", "overall_score"))
    ranks = ranks_of_scores(scores, "overall_score")
    return [{"prompt": record["instruction"], "responses": responses, "ranks": ranks}]


def _nectar(record: Record) -> Fields:
    responses, order = _columns(record, "answers", ("answer", "rank"))
    return [{"prompt": prompt_of(record["prompt"]), "responses": responses, "ranks": ranks_of_order(order, "rank")}]


def _summaries(record: Record) -> Fields:
    (responses,) = _columns(record, "summaries", ("text",))
    choice = record["choice"]
    if isinstance(choice, bool) or not isinstance(choice, int) or not 0 <= choice < len(responses):
        raise DataError('field "choice" must be the number of a summary, from 0; correct the row')
    labeler = {"labeler": record["worker"]} if isinstance(record.get("worker"), str) else {}
    ranks = [1 if number == choice else 2 for number in range(len(responses))]
    return [{"prompt": _post(record["info"]), "responses": responses, "ranks": ranks, **labeler}]


def _post(info: Any) -> str:
    """The text to summarise, then "TL;DR:" (the prompt of Stiennon et al. 2020)."""
    if not isinstance(info, dict) or not (info.get("post") or info.get("article")):
        raise DataError('field "info" must be an object with a post or an article; correct the row')
    headings = {"subreddit": "SUBREDDIT: r/", "title": "TITLE: ", "post": "POST: ", "article": ""}
    parts = [
        heading + check_text(info[name], f'"{name}" of field "info"')
        for name, heading in headings.items()
        if info.get(name)
    ]
    return "\n\n".join([*parts, "TL;DR:"])


def _webgpt(record: Record) -> Fields:
    question = record["question"]
    prompt = question.get("full_text") if isinstance(question, dict) else question
    ranks = ranks_of_scores([record["score_0"], record["score_1"]], "score_0 and score_1")
    return [{"prompt": prompt, "responses": [record["answer_0"], record["answer_1"]], "ranks": ranks}]


def _hh_rlhf(record: Record) -> Fields:
    return [_pair(from_dialogue(record["chosen"], "chosen"), from_dialogue(record["rejected"], "rejected"))]


def _preference(record: Record) -> Fields:
    chosen, rejected = ([one] if isinstance(one, dict) else one for one in (record["chosen"], record["rejected"]))
    prompt = _prompt_beside(record)
    if isinstance(chosen, list) and isinstance(rejected, list) and max(len(chosen), len(rejected)) > 1:
        fields = _pair(chosen, rejected)
        if isinstance(prompt, list) and prompt != fields["prompt"]:
            raise DataError("chosen and rejected must be one message each, or begin with the prompt; correct the row")
    elif prompt is not None:
        responses = [reply_text(chosen, "chosen"), reply_text(rejected, "rejected")]
        fields = {"prompt": prompt, "responses": responses, "ranks": [1, 2]}
    else:
        fields = _common_beginning(chosen, rejected)
    return [{**fields, "prompt": with_system(fields["prompt"], record.get("system"))}]


def _prompt_beside(record: Record) -> Any:
    """The prompt under one of the names that it has in public datasets; None if both responses begin with it."""
    if record.get("prompt") is None and record.get("instruction") is not None:
        return instruction_of({**record, "system": None}, "input")
    named = next((name for name in ("prompt", "question", "conversations") if record.get(name) is not None), None)
    return None if named is None else prompt_of(record[named], named)


def _pair(chosen: Any, rejected: Any) -> Record:
    """Two conversations that differ only in their last turn."""
    prompt, better = split_last_turn(chosen, "chosen")
    other_prompt, worse = split_last_turn(rejected, "rejected")
    if prompt != other_prompt:
        raise DataError("chosen and rejected must share all messages but the last; correct the row")
    return {"prompt": prompt, "responses": [better, worse], "ranks": [1, 2]}


def _common_beginning(chosen: Any, rejected: Any) -> Record:
    """Two texts that start with the prompt: their common beginning, up to its last white space."""
    check_text(chosen, 'field "chosen"')
    check_text(rejected, 'field "rejected"')
    pairs = enumerate(zip(chosen, rejected, strict=False))
    differ = next((at for at, (one, other) in pairs if one != other), min(len(chosen), len(rejected)))
    end = max((at for at, letter in enumerate(chosen[:differ]) if letter.isspace()), default=0)
    prompt = chosen[:end]
    if not prompt.strip():
        raise DataError('field "prompt" is missing, and chosen and rejected do not begin with the same words; add it')
    return {"prompt": prompt, "responses": [chosen[end:].lstrip(), rejected[end:].lstrip()], "ranks": [1, 2]}


def _columns(record: Record, field: str, wanted: Sequence[str]) -> list[list[Any]]:
    """The columns `wanted` of a list of objects."""
    items = record[field]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f'field "{field}" must be a list of objects; correct the row')
    for number, item in enumerate(items, start=1):
        missing = next((name for name in wanted if item.get(name) is None), None)
        if missing is not None:
            raise DataError(f'"{missing}" is missing in item {number} of field "{field}"; correct the row')
    return [[item[name] for item in items] for name in wanted]


def _two_dialogues(record: Record) -> bool:
    return is_dialogue(record["chosen"]) and is_dialogue(record["rejected"])


COMPARISON_LAYOUTS = (
    Layout("ranked", ("prompt", "responses", "ranks"), _ranked, takes=("system",)),
    Layout("scored", ("prompt", "responses", "scores"), _scored, takes=("system",)),
    Layout("nemo-rl", ("context", "completions"), _nemo_rl),
    Layout("ultrafeedback", ("instruction", "completions"), _ultrafeedback),
    Layout("nectar", ("prompt", "answers"), _nectar),
    Layout("summarize-from-feedback", ("info", "summaries", "choice"), _summaries, takes=("worker",)),
    Layout("webgpt", ("question", "answer_0", "answer_1", "score_0", "score_1"), _webgpt),
    OASST_TREES,
    OASST_MESSAGES,
    *LABELING_TOOLS,
    Layout("hh-rlhf", ("chosen", "rejected"), _hh_rlhf, fits=_two_dialogues),
    Layout("preference", ("chosen", "rejected"), _preference, takes=("prompt", "system")),
    SCORED_ROWS,
)
"""Each before those it could be mistaken for."""
