"""Layouts of labeling tools (Argilla, Label Studio) -> one comparison for each labeler's ranking of a record."""

from __future__ import annotations

from typing import Any

from data_modules.formats.layout import Fields, Layout, Record
from data_modules.formats.messages import check_text, from_json, kind
from data_modules.formats.ranks import ranks_of_order
from lit_instruct.errors import DataError

PROMPTS = ("prompt", "instruction", "question")
"""Names of the prompt in a record's fields; the first that is there counts."""


def _argilla(record: Record) -> Fields:
    """Records of a FeedbackDataset with a ranking question; values are names of the record's fields."""
    fields, responses = _decoded(record["fields"]), _decoded(record["responses"])
    if not isinstance(fields, dict) or not isinstance(responses, list):
        raise DataError('"fields" must be an object and "responses" a list, as Argilla exports them; correct the row')
    found = []
    for response in responses:
        given = response.get("values") if isinstance(response, dict) else None
        if not isinstance(given, dict) or response.get("status", "submitted") != "submitted":
            continue
        for answer in given.values():
            ranking: Any = answer.get("value") if isinstance(answer, dict) else None
            if _is_ranking(ranking):
                names = [one["value"] for one in ranking]
                ranks = ranks_of_order([one["rank"] for one in ranking], "rank")
                found.append(_row(fields, [_named(fields, name) for name in names], ranks, response.get("user_id")))
    return _some(found)


def _decoded(value: Any) -> Any:
    """The value; a cell of a CSV file as what it holds."""
    return from_json(value) if isinstance(value, str) else value


def _is_ranking(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and isinstance(one.get("value"), str) and "rank" in one for one in value)


def _named(fields: Record, name: Any) -> Any:
    if name not in fields:
        raise DataError(f'"responses" rank {name!r:.80}, which is no name in "fields"; correct the row')
    return fields[name]


def _label_studio(record: Record) -> Fields:
    """Tasks with a Ranker: a list of ids, the best first, or buckets of tied ids, the best first."""
    data, annotations = _decoded(record["data"]), _decoded(record["annotations"])
    items = data.get("items") if isinstance(data, dict) else None
    if not isinstance(items, list) or not isinstance(annotations, list):
        raise DataError('"data" must have a list "items", and "annotations" be a list; correct the row')
    texts = {str(item.get("id")): item.get("body") or item.get("title") for item in items if isinstance(item, dict)}
    found = []
    for annotation in annotations:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            if isinstance(result, dict) and result.get("type") == "ranker":
                ids, order = _ranker(result.get("value"))
                unknown = next((one for one in ids if one not in texts), None)
                if unknown is not None:
                    raise DataError(f'a result ranks {unknown!r:.80}, which is no id in "items"; correct the row')
                labeler = (result.get("meta") or {}).get("text") or annotation.get("completed_by")
                found.append(_row(data, [texts[one] for one in ids], order, labeler))
    return _some(found)


def _ranker(value: Any) -> tuple[list[str], list[int]]:
    ranked = value.get("ranker") if isinstance(value, dict) else None
    if isinstance(ranked, list):
        return [str(one) for one in ranked], [*range(1, len(ranked) + 1)]
    if isinstance(ranked, dict) and all(isinstance(bucket, list) for bucket in ranked.values()):
        filled = [bucket for bucket in ranked.values() if bucket]
        pairs = [(str(one), rank) for rank, bucket in enumerate(filled, start=1) for one in bucket]
        return [one for one, _ in pairs], [rank for _, rank in pairs]
    raise DataError(f'"ranker" must be a list of ids or buckets of ids, not {kind(ranked)}; correct the row')


def _row(fields: Record, responses: list[Any], ranks: list[int], labeler: Any) -> Record:
    name = next((name for name in PROMPTS if fields.get(name) is not None), None)
    if name is None:
        raise DataError(f"the record has no prompt; it needs one of {', '.join(PROMPTS)} beside its responses")
    labeler = labeler[0] if isinstance(labeler, list) and labeler else labeler
    labeler = labeler.get("email") or labeler.get("id") if isinstance(labeler, dict) else labeler
    row = {"prompt": check_text(fields[name], f'"{name}"'), "responses": responses, "ranks": ranks}
    return row if labeler is None else {**row, "labeler": str(labeler)}


def _some(found: Fields) -> Fields:
    if not found:
        raise DataError("nobody has ranked this record; remove it, or export ranked records only")
    return found


LABELING_TOOLS = (
    Layout("argilla", ("fields", "responses"), _argilla, takes=("suggestions", "status")),
    Layout("label-studio", ("data", "annotations"), _label_studio, takes=("predictions", "drafts")),
)
