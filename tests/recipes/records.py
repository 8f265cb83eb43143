"""Rows of our own in the layouts of the public datasets that recipes name, with the fields that those have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Record = dict[str, Any]


def _messages(number: int) -> list[dict[str, str]]:
    question, answer = f"Which number comes after {number}?", f"That is {number + 1}."
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"And after {number + 1}?"},
        {"role": "assistant", "content": f"That is {number + 2}."},
    ]


def _ultrachat(number: int) -> Record:
    messages = _messages(number)
    return {"prompt": messages[0]["content"], "prompt_id": f"{number:064x}", "messages": messages}


def _dolly(number: int) -> Record:
    question = f"Which number comes after {number}?"
    return {"instruction": question, "context": "", "response": f"It is {number + 1}.", "category": "open_qa"}


def _ultrafeedback(number: int) -> Record:
    answers = [
        {
            "annotations": {"helpfulness": {"Rating": str(score), "Rationale": "Because."}},
            "custom_system_prompt": "Help.",
            "model": f"model-{score}",
            "principle": "helpfulness",
            "response": f"It is {number + score}.",
            "critique": "Fine.",
            "fine-grained_score": float(score),
            "overall_score": float(score),
        }
        for score in (4, 1, 3, 2)
    ]
    return {
        "source": "ours",
        "instruction": f"Which number comes after {number}?",
        "models": [answer["model"] for answer in answers],
        "completions": answers,
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def _nectar(number: int) -> Record:
    answers = [
        {"answer": f"It is {number + rank}.", "model": f"model-{rank}", "rank": float(rank)} for rank in range(1, 8)
    ]
    return {
        "prompt": f"\n\nHuman: Which number comes after {number}?\n\nAssistant: ",
        "answers": answers,
        "turns": 1,
        "num_responses": 7,
        "source": ["ours"],
        "good_natured": True,
    }


def _hh(number: int) -> Record:
    asked = f"\n\nHuman: Which number comes after {number}?\n\nAssistant:"
    return {"chosen": f"{asked} It is {number + 1}.", "rejected": f"{asked} It is {number - 1}."}


def _tldr(number: int) -> Record:
    prompt = f"SUBREDDIT: r/numbers\n\nTITLE: What follows {number}\n\nPOST: I counted to {number}.\n\nTL;DR:"
    return {"prompt": prompt, "completion": f" Counted to {number}."}


def _summaries(number: int) -> Record:
    return {
        "info": {
            "id": f"t3_{number}",
            "post": f"I counted to {number}.",
            "title": f"What follows {number}",
            "subreddit": "numbers",
            "site": None,
            "article": None,
        },
        "summaries": [
            {"text": f" Counted to {number}.", "policy": "sup1", "note": "good"},
            {"text": " Counted.", "policy": "sup2", "note": "short"},
        ],
        "choice": number % 2,
        "worker": "w1",
        "batch": "b1",
        "split": "train",
        "extra": {"confidence": 5},
    }


def _oasst(number: int) -> list[Record]:
    """A question and three ranked answers, as the flat rows of a tree."""

    def message(name: str, parent: str | None, text: str, role: str, rank: int | None) -> Record:
        return {
            "message_id": name,
            "parent_id": parent,
            "user_id": "u1",
            "text": text,
            "role": role,
            "lang": "en",
            "rank": rank,
            "deleted": False,
            "message_tree_id": f"tree-{number}",
            "tree_state": "ready_for_export",
        }

    question = message(f"tree-{number}", None, f"Which number comes after {number}?", "prompter", None)
    answers = [
        message(f"{number}-{rank}", f"tree-{number}", f"It is {number + rank + 1}.", "assistant", rank)
        for rank in (1, 0, 2)
    ]
    return [question, *answers]


MAKERS: dict[str, Callable[[int], Record | list[Record]]] = {
    "HuggingFaceH4/ultrachat_200k": _ultrachat,
    "databricks/databricks-dolly-15k": _dolly,
    "openbmb/UltraFeedback": _ultrafeedback,
    "berkeley-nest/Nectar": _nectar,
    "Anthropic/hh-rlhf": _hh,
    "trl-lib/tldr": _tldr,
    "openai/summarize_from_feedback": _summaries,
    "OpenAssistant/oasst1": _oasst,
}


def records(dataset: str, count: int) -> list[Record]:
    """Returns rows of a dataset; of trees, the messages of `count` trees.

    Args:
        dataset: hub id without revision and split.
        count: how many.
    """
    made = [MAKERS[dataset](number) for number in range(count)]
    return [record for found in made for record in (found if isinstance(found, list) else [found])]
