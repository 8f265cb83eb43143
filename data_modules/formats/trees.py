"""OpenAssistant's message trees -> one comparison for each message with two or more ranked replies.

A tree is nested in one record (`*.trees.jsonl.gz`: prompt, with replies in replies) or spread over a table
(`*.messages.jsonl.gz` and the Parquet files on the hub: message_id, parent_id), where the rows of a tree are adjacent.
"""

from __future__ import annotations

from typing import Any

from data_modules.formats.layout import MAX_GROUP, Fields, Layout, Record
from data_modules.formats.messages import ROLES, kind
from data_modules.formats.ranks import ranks_of_order
from lit_instruct.errors import DataError


def _tree(record: Record) -> Fields:
    return _comparisons([record["prompt"]])


def _table(record: Record) -> Fields:
    messages = record["records"]
    if len(messages) > MAX_GROUP:
        raise DataError(f"a tree of more than {MAX_GROUP} messages; remove it, or sort the file by message_tree_id")
    nodes: dict[Any, Record] = {}
    for message in messages:
        missing = next(
            (name for name in ("message_id", "text", "role") if not isinstance(message.get(name), str)), None
        )
        if missing is not None:
            raise DataError(f'field "{missing}" of a message must be a text; correct the row')
        nodes[message["message_id"]] = {**message, "replies": []}
    roots = []
    for node in nodes.values():
        parent = node.get("parent_id")
        if parent is None:
            roots.append(node)
        elif not isinstance(parent, str) or parent not in nodes:
            raise DataError(
                f"the parent {parent!r:.60} of message {node['message_id']!r:.60} is not among the rows of its tree; "
                "keep the rows of a tree together"
            )
        else:
            nodes[parent]["replies"].append(node)
    return [{"message_tree_id": record["message_tree_id"], **row} for row in _comparisons(roots)]


def _comparisons(roots: list[Any]) -> Fields:
    """Walks down from the roots without recursion, since the depth of a tree depends on the file."""
    found: Fields = []
    stack: list[tuple[Any, list[dict[str, str]]]] = [(root, []) for root in reversed(roots)]
    while stack:
        node, before = stack.pop()
        message = _message(node)
        path = [*before, message]
        replies = node.get("replies") or []
        if not isinstance(replies, list):
            raise DataError(f'field "replies" must be a list, not {kind(replies)}; correct the row')
        ranked = [reply for reply in replies if isinstance(reply, dict) and reply.get("rank") is not None]
        if message["role"] == "user" and len(ranked) >= 2:
            found.append(_comparison(path, ranked, node))
        stack += [(reply, path) for reply in reversed(replies)]
    return found


def _comparison(prompt: list[dict[str, str]], replies: list[Record], node: Record) -> Record:
    ranks = ranks_of_order([reply["rank"] for reply in replies], "rank")
    language = {"lang": node["lang"]} if isinstance(node.get("lang"), str) else {}
    return {
        **language,
        "prompt": prompt,
        "responses": [_message(reply)["content"] for reply in replies],
        "ranks": ranks,
    }


def _message(node: Any) -> dict[str, str]:
    if not isinstance(node, dict) or not isinstance(node.get("text"), str):
        raise DataError('each message of a tree must have a field "text"; correct the row')
    role = ROLES.get(str(node.get("role")))
    if role is None:
        raise DataError('each message of a tree must have a field "role", prompter or assistant; correct the row')
    return {"role": role, "content": node["text"]}


def _has_tree(record: Record) -> bool:
    return isinstance(record["prompt"], dict) and "text" in record["prompt"]


OASST_TREES = Layout("oasst-trees", ("prompt",), _tree, fits=_has_tree)
OASST_MESSAGES = Layout(
    "oasst-messages",
    ("message_tree_id", "message_id", "text", "role"),
    _table,
    takes=("records",),
    group="message_tree_id",
)
