"""Where a response ends: at a stop id, or with the token that completes a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lit_instruct.errors import UserError
from lit_instruct.prompting import Prompter

_SPARE_TOKENS = 4
"""Tokens decoded beyond the longest stop string: a decoder may strip the first one's space."""


class StopRule:
    """Tells where a response ends, both while it grows and when it is complete.

    A response that ends with a stop string counts as ended, without a penalty for a missing end of turn. The string's
    tokens are part of the response, like an end-of-turn token; the response's text stops before them.

    Args:
        ids: token ids that end a response.
        strings: texts that end a response.
        decode: ids -> text, without special tokens, white space kept.
    """

    def __init__(self, ids: Sequence[int], strings: Sequence[str], decode: Callable[[Sequence[int]], str]) -> None:
        self.ids = list(dict.fromkeys(ids))
        self.strings = list(strings)
        self._decode = decode
        self._on_device: dict[torch.device, Tensor] = {}
        # A token that shows in the text stands for at least one byte.
        self._tail = max((len(text.encode()) for text in self.strings), default=0) + _SPARE_TOKENS

    @classmethod
    def of(cls, prompter: Prompter, ids: Sequence[int], strings: Sequence[str]) -> StopRule:
        """Returns the rule for a prompt format, including its own end of turn.

        Args:
            prompter: the prompt format.
            ids: more token ids that end a response.
            strings: texts that end a response; the name of a special token means its id.

        Raises:
            UserError: the tokenizer does not have an id.
        """
        if not ids and not strings:
            return cls(prompter.stop_ids, [], prompter.decode)
        tokenizer = prompter.tokenizer
        for token_id in ids:
            if token_id >= len(tokenizer):
                raise UserError(f"stop_ids={list(ids)}: the tokenizer has only the ids 0 to {len(tokenizer) - 1}")
        special = {text: number for number, text in prompter.special_tokens.items()}
        named = [special[text] for text in strings if text in special]
        return cls(
            [*prompter.stop_ids, *ids, *named],
            [text for text in strings if text not in special],
            prompter.decode_as_is,
        )

    def ended(self, ids: Sequence[int]) -> bool:
        """Tells whether a response ends with the last of these ids, rather than being cut by the length limit."""
        return bool(ids) and (ids[-1] in self.ids or self._has_string(ids))

    def text(self, ids: Sequence[int]) -> str:
        """Returns a response's text, without what ended it and without surrounding white space."""
        text = self._decode(ids)
        found = [text.index(string) for string in self.strings if string in text]
        return (text[: min(found)] if found else text).strip()

    def ended_by_id(self, tokens: Tensor) -> Tensor:
        """Tells for each row whether this token ends it, on the tokens' device: (B,) long -> (B,) bool."""
        if tokens.device not in self._on_device:  # copied once: the host would wait for every copy
            self._on_device[tokens.device] = torch.tensor(self.ids, dtype=torch.long, device=tokens.device)
        return torch.isin(tokens, self._on_device[tokens.device])

    def ended_by_string(self, rows: Sequence[Sequence[int]], seen: int) -> list[int | None]:
        """Returns the length at which each row first has a stop string, None if it has none.

        Args:
            rows: ids of each row's response so far, all of one length.
            seen: that many tokens were looked at before, and had no stop string.
        """
        if not self.strings:
            return [None] * len(rows)
        return [
            next((end for end in range(seen + 1, len(ids) + 1) if self._has_string(ids[:end])), None) for ids in rows
        ]

    def _has_string(self, ids: Sequence[int]) -> bool:
        if not self.strings:
            return False
        text = self._decode(ids[-self._tail :])
        return any(string in text for string in self.strings)
