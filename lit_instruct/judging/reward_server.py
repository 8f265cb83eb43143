"""Rewards from a server: prompts and responses are sent to an address, and numbers come back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lit_instruct.errors import UserError
from lit_instruct.judging.client import Client, checked_url
from lit_instruct.prompting import Prompt

ADDRESSES = ("http://", "https://")
"""How the address of a reward server begins, wherever a function is named."""
KEY = "LIT_INSTRUCT_REWARD_KEY"
"""Environment variable with the server's key, if it needs one."""
TIMEOUT, RETRIES = 120.0, 5
SIZE = 64
"""Most responses of a request."""


class RewardServer:
    """Asks a server for rewards: {"prompts", "responses", "rows"} -> a list of numbers, or {"scores": [...]}.

    Args:
        url: its address, without a name, password or query, because runs record it.
        name: the option and what it names, for messages.

    Raises:
        UserError: the address or the key cannot be used.
    """

    def __init__(self, url: str, name: str) -> None:
        check_address(url, name)
        self.name = name
        self.client = Client(url, name, KEY if os.environ.get(KEY) else None, TIMEOUT, RETRIES)

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        """Returns what the server says of each response.

        Raises:
            UserError: it gives no answer, or not one score for each response.
        """
        scores: list[Any] = []
        for start in range(0, len(responses), SIZE):
            part = slice(start, start + SIZE)
            sent = {"prompts": prompts[part], "responses": responses[part], "rows": rows[part]}
            scores += self._scores(self.client.post(sent), len(responses[part]))
        return scores

    def _scores(self, answer: Any, count: int) -> list[Any]:
        found = answer.get("scores") if isinstance(answer, dict) else answer
        if not isinstance(found, list):
            raise UserError(
                f"{self.name}: the server answered no list of scores; it must answer a list of numbers, or "
                '{"scores": [...]}'
            )
        if len(found) != count:
            raise UserError(
                f"{self.name}: the server answered {len(found)} scores for {count} responses; it must answer one for "
                "each, in their order"
            )
        return found


def check_address(url: str, name: str, key: str = KEY) -> None:
    """Raises UserError if an address that runs will record has a name, password or query in it, or is none.

    Args:
        url: the address.
        name: the option and what it names, for messages.
        key: environment variable that a key may come from.
    """
    if checked_url(url, name).query:
        raise UserError(
            f"{name}: runs record the address, so leave out what follows its question mark; a key comes from the "
            f"environment variable {key}"
        )
