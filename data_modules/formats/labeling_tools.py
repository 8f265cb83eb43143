"""Layouts of labeling tools (Argilla, Label Studio) -> one comparison for each labeler's ranking of a record."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_OID, uuid5

from data_modules.formats.layout import Fields, Layout, Record
from data_modules.formats.messages import check_text, from_json, kind
from data_modules.formats.ranks import ranks_of_order
from lit_instruct.errors import DataError

PROMPTS = ("prompt", "instruction", "question")
"""Names of the prompt in a record's fields; the first that is there counts."""


def argilla_user(labeler: str) -> str:
    """Returns the UUID that stands for a labeler in records of Argilla."""
    return str(uuid5(NAMESPACE_OID, labeler))


def _argilla(record: Record) -> Fields:
    """Records of a FeedbackDataset with a ranking question; values are names of the record's fields."""
    fields, responses = _decoded(record["fields"]), _decoded(record["responses"])
    if not isinstance(fields, dict) or not isinstance(responses, list):
        raise DataError('"fields" must be an object and "responses" a list, as Argilla exports them; correct the row')
    found = []
    metadata, names = _metadata(record.get("metadata"))
    for response in responses:
        given = response.get("values") if isinstance(response, dict) else None
        if not isinstance(given, dict) or response.get("status", "submitted") != "submitted":
            continue
        for answer in given.values():
            ranking: Any = answer.get("value") if isinstance(answer, dict) else None
            if _is_ranking(ranking):
                ranks = ranks_of_order([one["rank"] for one in ranking], "rank")
                ranked = _in_order(fields, [one["value"] for one in ranking], ranks, "fields")
                user = response.get("user_id")
                found.append(_row(fields, ranked, names.get(str(user), user)) | metadata)
    return _some(found)


def _metadata(value: Any) -> tuple[Record, dict[str, str]]:
    """Metadata other than the labelers that `lit-instruct rank export` names there, and those by their UUID."""
    labelers = value.get("labelers") if isinstance(value, dict) else None
    if not isinstance(labelers, list) or not all(isinstance(name, str) for name in labelers):
        return ({} if value is None else {"metadata": value}), {}
    rest = {name: one for name, one in value.items() if name != "labelers"}
    return ({"metadata": rest} if rest else {}), {argilla_user(name): name for name in labelers}


def _in_order(texts: Record, names: list[str], ranks: list[int], place: str) -> list[tuple[Any, int]]:
    """Ranked texts with their ranks, in the order of the record."""
    for number, name in enumerate(names):
        if name not in texts or name in names[:number]:
            wrong = "twice" if name in texts else f'which is not in "{place}"'
            raise DataError(f"a ranking names {name!r:.80}, {wrong}; correct the row")
    rank = dict(zip(names, ranks, strict=True))
    return [(text, rank[name]) for name, text in texts.items() if name in rank]


def _decoded(value: Any) -> Any:
    """The value; a cell of a CSV file as what it holds."""
    return from_json(value) if isinstance(value, str) else value


def _is_ranking(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(one, dict) and isinstance(one.get("value"), str) and "rank" in one for one in value)


def _label_studio(record: Record) -> Fields:
    """Tasks with a Ranker: a list of ids, the best first, or buckets of tied ids, the best first."""
    data, annotations = _decoded(record["data"]), _decoded(record["annotations"])
    items = data.get("items") if isinstance(data, dict) else None
    if not isinstance(items, list) or not isinstance(annotations, list):
        raise DataError('"data" must have a list "items", and "annotations" be a list; correct the row')
    texts = {str(item.get("id")): item.get("body") or item.get("title") for item in items if isinstance(item, dict)}
    found = []
    for annotation in annotations:
        results = annotation.get("result") if isinstance(annotation, dict) else None
        if not isinstance(results, list) or annotation.get("was_cancelled"):
            continue
        for result in results:
            if isinstance(result, dict) and result.get("type") == "ranker":
                ranked = _in_order(texts, *_ranker(result.get("value")), "items")
                meta = result.get("meta")
                labeler = (isinstance(meta, dict) and meta.get("text")) or annotation.get("completed_by")
                seconds = {"seconds": annotation["lead_time"]} if annotation.get("lead_time") is not None else {}
                found.append(_row(data, ranked, labeler) | seconds)
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


def _row(fields: Record, ranked: list[tuple[Any, int]], labeler: Any) -> Record:
    name = next((name for name in PROMPTS if fields.get(name) is not None), None)
    if name is None:
        raise DataError(f"the record has no prompt; it needs one of {', '.join(PROMPTS)} beside its responses")
    labeler = labeler[0] if isinstance(labeler, list) and labeler else labeler
    labeler = labeler.get("email") or labeler.get("id") if isinstance(labeler, dict) else labeler
    responses, ranks = [text for text, _ in ranked], [rank for _, rank in ranked]
    row = {"prompt": check_text(fields[name], f'"{name}"'), "responses": responses, "ranks": ranks}
    return row if labeler is None else {**row, "labeler": str(labeler)}


def _some(found: Fields) -> Fields:
    if not found:
        raise DataError("nobody has ranked this record; remove it, or export ranked records only")
    return found


LABELING_TOOLS = (
    Layout("argilla", ("fields", "responses"), _argilla, takes=("suggestions", "status", "metadata")),
    Layout("label-studio", ("data", "annotations"), _label_studio, takes=("predictions", "drafts")),
)
