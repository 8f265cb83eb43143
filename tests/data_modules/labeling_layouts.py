"""Records of labeling tools, as (type of row, layout, record, its row)."""

from __future__ import annotations

from typing import Any

from data_modules.rows import RankedComparison, Row

_VALUE = [{"rank": 2, "value": "response-1"}, {"rank": 1, "value": "response-2"}]
_RESULT = {"type": "ranker", "value": {"ranker": ["1", "0"]}}
LABELING_CASES: list[tuple[type[Row], str, dict[str, Any], Row]] = [
    (
        RankedComparison,
        "argilla",
        {
            "fields": {"prompt": "q", "response-1": "a", "response-2": "b"},
            "responses": [{"values": {"best": {"value": _VALUE}}, "user_id": "u1", "status": "submitted"}],
        },
        RankedComparison("q", ["a", "b"], [2, 1], extra={"labeler": "u1"}),
    ),
    (
        RankedComparison,
        "label-studio",
        {
            "data": {"prompt": "q", "items": [{"id": "0", "body": "a"}, {"id": "1", "body": "b"}]},
            "annotations": [{"completed_by": 7, "result": [_RESULT], "was_cancelled": False}],
        },
        RankedComparison("q", ["a", "b"], [2, 1], extra={"labeler": "7"}),
    ),
]
