"""One small row of our own writing in every public layout, and the row that it stands for."""

from __future__ import annotations

from typing import Any

from data_modules.rows import Demonstration, PromptRow, RankedComparison, Row
from tests.data_modules.labeling_layouts import LABELING_CASES


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def oasst(text: str, role: str, *replies: Any, **fields: Any) -> dict[str, Any]:
    return {"message_id": text, "text": text, "role": role, "lang": "en", "replies": list(replies), **fields}


TALK = [system("Be brief."), user("a?"), assistant("b."), user("c?")]
"""A conversation that waits for the assistant."""
HH_TALK = "\n\nHuman: a?\n\nAssistant: b.\n\nHuman: c?"
TREE = oasst(
    "a?",
    "prompter",
    oasst("b.", "assistant", rank=1),
    oasst("c.", "assistant", oasst("d?", "prompter"), rank=0),
    oasst("unranked", "assistant", rank=None),
)

# kind of row, layout, record, row, further fields
CASES: list[tuple[type[Row], str, dict[str, Any], Row]] = [
    (
        Demonstration,
        "prompt-response",
        {"prompt": "a?", "response": "b.", "labeler": "l1"},
        Demonstration("a?", "b.", extra={"labeler": "l1"}),
    ),
    (
        Demonstration,
        "prompt-response",
        {"prompt": "a?", "response": "b.", "system": "Be brief."},
        Demonstration([system("Be brief."), user("a?")], "b."),
    ),
    (
        Demonstration,
        "prompt-completion",
        {"prompt": "The sky is", "completion": " blue."},
        Demonstration("The sky is", " blue."),
    ),
    (
        Demonstration,
        "prompt-completion",
        {"prompt": [user("a?")], "completion": [assistant("b.")]},
        Demonstration([user("a?")], "b."),
    ),
    (Demonstration, "messages", {"messages": [*TALK, assistant("d.")]}, Demonstration(TALK, "d.")),
    (
        Demonstration,
        "alpaca",
        {"instruction": "Name the colour.", "input": "the sky", "output": "blue"},
        Demonstration("Name the colour.\n\nthe sky", "blue"),
    ),
    (
        Demonstration,
        "alpaca",
        {"instruction": "Name a colour.", "input": "", "output": "blue"},
        Demonstration("Name a colour.", "blue"),
    ),
    (
        Demonstration,
        "alpaca",
        {
            "instruction": "And of Spain?",
            "input": "",
            "output": "Madrid.",
            "history": [["Capital of France?", "Paris."]],
            "system": "Be brief.",
        },
        Demonstration(
            [system("Be brief."), user("Capital of France?"), assistant("Paris."), user("And of Spain?")], "Madrid."
        ),
    ),
    (
        Demonstration,
        "alpaca",
        {"instruction": "a", "input": "b", "output": "c", "history": [], "system": ""},
        Demonstration("a\n\nb", "c"),
    ),
    (
        Demonstration,
        "dolly",
        {"instruction": "Who?", "context": "Ann sat.", "response": "Ann", "category": "closed_qa"},
        Demonstration("Who?\n\nAnn sat.", "Ann", extra={"use_case": "closed_qa"}),
    ),
    (
        Demonstration,
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "a?"},
                {"from": "gpt", "value": "b."},
                {"from": "human", "value": "c?"},
                {"from": "gpt", "value": "d."},
            ]
        },
        Demonstration(TALK, "d."),
    ),
    (
        RankedComparison,
        "ranked",
        {"prompt": "a?", "responses": ["b", "c", "d"], "ranks": [2, 1, 2]},
        RankedComparison("a?", ["b", "c", "d"], [2, 1, 2]),
    ),
    (
        RankedComparison,
        "scored",
        {"prompt": "a?", "responses": ["b", "c", "d"], "scores": [0.5, 0.9, 0.5]},
        RankedComparison("a?", ["b", "c", "d"], [2, 1, 2]),
    ),
    (
        RankedComparison,
        "nemo-rl",
        {
            "context": TALK,
            "completions": [
                {"rank": 0, "completion": [assistant("d.")]},
                {"rank": 1, "completion": [assistant("e.")]},
            ],
            "task_name": "t",
        },
        RankedComparison(TALK, ["d.", "e."], [1, 2], extra={"task_name": "t"}),
    ),
    (
        RankedComparison,
        "preference",
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        RankedComparison("The sky is", [" blue.", " green."], [1, 2]),
    ),
    (
        RankedComparison,
        "preference",
        {"prompt": TALK, "chosen": [assistant("d.")], "rejected": [assistant("e.")]},
        RankedComparison(TALK, ["d.", "e."], [1, 2]),
    ),
    (
        RankedComparison,
        "preference",
        {"chosen": "The sky is blue.", "rejected": "The sky is black."},
        RankedComparison("The sky is", ["blue.", "black."], [1, 2]),
    ),
    (
        RankedComparison,
        "preference",
        {"chosen": [*TALK, assistant("d.")], "rejected": [*TALK, assistant("e.")]},
        RankedComparison(TALK, ["d.", "e."], [1, 2]),
    ),
    (
        RankedComparison,
        "preference",
        {"prompt": "a?", "chosen": [user("a?"), assistant("b.")], "rejected": [user("a?"), assistant("c.")]},
        RankedComparison([user("a?")], ["b.", "c."], [1, 2]),
    ),
    (
        RankedComparison,
        "preference",
        {"instruction": "Name it.", "input": "the sky", "chosen": "It is blue.", "rejected": "It is red."},
        RankedComparison(
            "Name it.\n\nthe sky",
            ["It is blue.", "It is red."],
            [1, 2],
            extra={"instruction": "Name it.", "input": "the sky"},
        ),
    ),
    (
        RankedComparison,
        "preference",
        {"system": "Be brief.", "question": "a?", "chosen": "It is b.", "rejected": "It is c."},
        RankedComparison([system("Be brief."), user("a?")], ["It is b.", "It is c."], [1, 2], extra={"question": "a?"}),
    ),
    (
        RankedComparison,
        "hh-rlhf",
        {"chosen": HH_TALK + "\n\nAssistant: d.", "rejected": HH_TALK + "\n\nAssistant: e."},
        RankedComparison(TALK[1:], ["d.", "e."], [1, 2]),
    ),
    (
        RankedComparison,
        "ultrafeedback",
        {
            "instruction": "a?",
            "completions": [
                {"model": "m1", "response": "b", "overall_score": 7.5},
                {"model": "m2", "response": "c", "overall_score": 9.0},
                {"model": "m3", "response": "d", "overall_score": 7.5},
            ],
            "source": "s",
        },
        RankedComparison("a?", ["b", "c", "d"], [2, 1, 2], extra={"source": "s"}),
    ),
    (
        RankedComparison,
        "nectar",
        {
            "prompt": HH_TALK + "\n\nAssistant: ",
            "answers": [
                {"answer": "d.", "model": "m1", "rank": 2.0},
                {"answer": "e.", "model": "m2", "rank": 1.0},
                {"answer": "f.", "model": "m3", "rank": 3.0},
            ],
            "turns": 2,
        },
        RankedComparison(TALK[1:], ["d.", "e.", "f."], [2, 1, 3], extra={"turns": 2}),
    ),
    (
        RankedComparison,
        "summarize-from-feedback",
        {
            "info": {"id": "i", "post": "My cat sat.", "title": "Cat", "subreddit": "pets", "article": None},
            "summaries": [{"text": "It stood.", "policy": "p"}, {"text": "It sat.", "policy": "q"}],
            "choice": 1,
            "worker": "w1",
        },
        RankedComparison(
            "SUBREDDIT: r/pets\n\nTITLE: Cat\n\nPOST: My cat sat.\n\nTL;DR:",
            ["It stood.", "It sat."],
            [2, 1],
            extra={"labeler": "w1"},
        ),
    ),
    (
        RankedComparison,
        "webgpt",
        {
            "question": {"dataset": "d", "id": "i", "full_text": "a?"},
            "answer_0": "b",
            "answer_1": "c",
            "score_0": -0.5,
            "score_1": 0.5,
        },
        RankedComparison("a?", ["b", "c"], [2, 1]),
    ),
    (
        RankedComparison,
        "webgpt",
        {"question": {"full_text": "a?"}, "answer_0": "b", "answer_1": "c", "score_0": 0.0, "score_1": 0.0},
        RankedComparison("a?", ["b", "c"], [1, 1]),
    ),
    (
        RankedComparison,
        "oasst-trees",
        {"message_tree_id": "t", "tree_state": "ready", "prompt": TREE},
        RankedComparison(
            [user("a?")],
            ["b.", "c."],
            [2, 1],
            extra={"message_tree_id": "t", "tree_state": "ready", "lang": "en"},
        ),
    ),
    (
        PromptRow,
        "prompt",
        {"prompt": "a?", "user": "u1", "use_case": "chat", "system": "Be brief."},
        PromptRow([system("Be brief."), user("a?")], "u1", "chat"),
    ),
    (PromptRow, "messages", {"messages": TALK}, PromptRow(TALK)),
    (PromptRow, "messages", {"messages": [*TALK, assistant("d.")]}, PromptRow(TALK)),
    (
        PromptRow,
        "conversation",
        {
            "conversation_id": "c",
            "conversation": [{**user("a?"), "redacted": False}, {**assistant("b."), "redacted": False}, user("c?")],
            "hashed_ip": "u1",
        },
        PromptRow([user("a?")], "u1", extra={"conversation_id": "c"}),
    ),
    (
        PromptRow,
        "conversations",
        {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b."}]},
        PromptRow([user("a?")]),
    ),
    *LABELING_CASES,
]
NAMES = [f"{row_type.__name__}-{layout}-{number}" for number, (row_type, layout, _, _) in enumerate(CASES)]
