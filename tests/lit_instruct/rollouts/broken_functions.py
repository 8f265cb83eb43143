"""Functions of every form, and functions that do what they must not."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

Pairs = list[tuple[str, str]]
NUMBER = 3
RECORDED: dict[str, Any] = {}


def length(pairs: Pairs) -> list[float]:
    """The one that works: how long a response is."""
    return [len(response) for _, response in pairs]


def prompt_length(pairs: Pairs) -> list[float]:
    """How long a prompt is."""
    return [len(prompt) for prompt, _ in pairs]


def too_few(pairs: Pairs) -> list[float]:
    return [0.0] * (len(pairs) - 1)


def not_a_number(pairs: Pairs) -> list[float]:
    return [0.0, float("nan"), *[0.0] * (len(pairs) - 2)]


def infinite(pairs: Pairs) -> list[float]:
    return [float("inf")] * len(pairs)


def raises(pairs: Pairs) -> list[float]:
    raise KeyError("missing")


def nothing(pairs: Pairs) -> None:
    return None


def words(pairs: Pairs) -> list[str]:
    return ["good"] * len(pairs)


def not_on_zero(pairs: Pairs) -> list[float]:
    return [1 / (response != "a zero") for _, response in pairs]


def one_at_a_time(pairs: Pairs) -> list[float]:
    if len(pairs) > 1:
        raise MemoryError("too many")
    return [0.0]


def prompt_length_of_rows(prompts: list[str], responses: list[str], rows: list[Any]) -> list[float]:
    return [len(prompt) for prompt in prompts]


def of_rows(prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[float]:
    """Whether a response ends with the row's answer."""
    return [float(text.endswith(row["answer"])) for text, row in zip(responses, rows, strict=True)]


def of_rows_by_other_names(asked: list[str], said: list[str], of: list[Any], strict: bool = True) -> list[float]:
    return of_rows(asked, said, of)


class _OfRows:
    def __call__(self, prompts: list[str], responses: list[str], rows: list[Any]) -> list[float]:
        return of_rows(prompts, responses, rows)


OfRows = _OfRows()


def trl(completions: list[str], answer: list[str]) -> list[float]:
    return [float(text.endswith(one)) for text, one in zip(completions, answer, strict=True)]


def trl_of_all_columns(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    assert columns["id"] == [None, 7, None]
    return trl(completions, columns["answer"])


def record(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float]:
    RECORDED.update({"prompts": prompts, "completions": completions, **columns})
    return [0.0] * len(prompts)


def trl_of_absent_column(completions: list[str], solution: list[str]) -> list[float]:
    return [0.0] * len(completions)


def of_absent_column(prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[float]:
    return [row["solution"] for row in rows]


def two_arguments(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.0] * len(prompts)


def four_arguments(prompts: list[str], responses: list[str], rows: list[Any], more: int) -> list[float]:
    return [0.0] * len(prompts)


def no_argument() -> list[float]:
    return []


async def asynchronous(pairs: Pairs) -> list[float]:
    return [0.0] * len(pairs)


def empties_the_list(pairs: Pairs) -> list[float]:
    return [float(len(pairs.pop(0)[1])) for _ in range(len(pairs))]


def changes_rows(prompts: list[str], responses: list[str], rows: list[dict[str, Any]]) -> list[float]:
    found = [float(row.pop("answer") == "x") for row in rows]
    for argument in (prompts, responses, rows):
        argument.clear()  # type: ignore[attr-defined]
    return found


def booleans(pairs: Pairs) -> list[bool]:
    return [True, False, True]


def tensor(pairs: Pairs) -> torch.Tensor:
    return torch.tensor([1, 0, 1])


def array(pairs: Pairs) -> Any:
    return np.array([1.0, 0.0, 1.0])


def halves(pairs: Pairs) -> list[Any]:
    return [torch.tensor(1, dtype=torch.bfloat16), np.float16(0), np.int64(1)]


def generator(pairs: Pairs) -> Iterator[float]:
    yield from (1.0, 0.0, 1.0)


def turns_gradients_off(pairs: Pairs) -> list[float]:
    torch.set_grad_enabled(False)
    return [1.0, 0.0, 1.0]


def leaves(pairs: Pairs) -> list[float]:
    sys.exit(1)


def raises_lines(pairs: Pairs) -> list[float]:
    raise ValueError("a\nb")


def a_number(pairs: Pairs) -> float:
    return 1.5


def a_dict(pairs: Pairs) -> dict[int, float]:
    return {0: 1.0, 1: 2.0, 2: 3.0}


def a_text(pairs: Pairs) -> str:
    return "123"


def a_set(pairs: Pairs) -> set[int]:
    return {1}


def digits(pairs: Pairs) -> list[str]:
    return ["0.5"] * len(pairs)


def dicts(pairs: Pairs) -> list[Any]:
    return [{"score": 1.0}] * len(pairs)


def nones(pairs: Pairs) -> list[Any]:
    return [1.0, None, 1.0][: len(pairs)]


def too_large(pairs: Pairs) -> list[int]:
    return [10**400] * len(pairs)


def changes_dtype(pairs: Pairs) -> list[float]:
    torch.set_default_dtype(torch.float64)
    return [0.0] * len(pairs)


def changes_dtype_and_raises(pairs: Pairs) -> list[float]:
    torch.set_default_dtype(torch.float64)
    raise ValueError("after a change")


def changes_folder(pairs: Pairs) -> list[float]:
    os.chdir("/")
    return [0.0] * len(pairs)


def changes_precision(pairs: Pairs) -> list[float]:
    torch.set_float32_matmul_precision("medium")
    return [0.0] * len(pairs)


def draws(pairs: Pairs) -> list[float]:
    torch.manual_seed(1)
    random.seed(1)
    torch.set_num_threads(torch.get_num_threads() + 1)
    return [1.0, 0.0, float(torch.rand(()) < 2)]


def is_cancelled(pairs: Pairs) -> list[float]:
    raise asyncio.CancelledError("by itself")


def nested(pairs: Pairs) -> list[Any]:
    return [[1.0, 2.0]] * len(pairs)


def complexes(pairs: Pairs) -> list[Any]:
    return [1j] * len(pairs)


def interrupts(pairs: Pairs) -> list[float]:
    raise KeyboardInterrupt
