"""How the responses of a batch become forward and backward passes: rows, forwards of rows, groups of prompts.

A *row* holds all responses to a prompt (`shared_prefix`) or one. A *forward* runs rows of similar width, padded to the
widest. A *group* is the prompts whose activations exist at the same time: the loss is a sum over prompts, so one
backward pass after each group gives the gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lit_instruct.fast.prefix_attention import computed_pairs
from lit_instruct.fast.shared_prefix import packed_length, prefix_length

Sharing = Literal["auto", "on", "off"]
Row = list[list[int]]
"""The token ids of the sequences that share a row."""
START_COST = {"cpu": 32, "cuda": 1024}
"""Fixed cost of a forward, in tokens: another forward must save at least this much padding."""
ENOUGH_TOKENS = {"cpu": 1024}
"""Tokens from which a larger forward is no faster per token: on a CPU its activations no longer fit into the cache."""
MOST_ROWS = 64
"""Most rows of a forward."""


def enough_tokens(most: int, device: str) -> int:
    """Returns how many tokens a forward should have where `most` are allowed: fewer if more are no faster.

    Args:
        most: tokens, padding included.
        device: type of the device.
    """
    return min(most, ENOUGH_TOKENS.get(device, most))


@dataclass(frozen=True)
class Packing:
    """How responses are packed into rows, forwards and groups.

    Args:
        sharing: whether the responses to a prompt share a row; "auto" asks `worth_sharing`.
        max_tokens: most tokens of a group, padding included; a prompt with more is a group of its own, whose forwards
            of at most this many tokens are recomputed in the backward pass.
        hidden_size: of the model.
        device: type of the device; it decides how large an efficient forward is.
    """

    sharing: Sharing
    max_tokens: int
    hidden_size: int
    device: str

    def rows(self, sequences: Row) -> list[Row]:
        """Returns the rows of one prompt, in the order of its sequences."""
        separate = [[sequence] for sequence in sequences]
        if self.sharing == "off" or len(sequences) == 1:
            return separate
        shared = self._shared_rows(sequences)
        wanted = self.sharing == "on" or worth_sharing(shared, separate, self.hidden_size)
        return shared if wanted else separate

    def forwards(self, widths: Sequence[int]) -> list[list[int]]:
        """Returns the row numbers of each forward: the cheapest partition of the rows sorted by width (in tokens).

        A forward costs its tokens, padding included, plus `START_COST`.
        """
        order = sorted(range(len(widths)), key=widths.__getitem__)
        start_cost = START_COST.get(self.device, START_COST["cuda"])
        cheapest, cut = [0], [0]
        for end, row in enumerate(order, start=1):
            costs = {
                begin: cheapest[begin] + tokens + start_cost
                for begin in range(max(0, end - MOST_ROWS), end)
                if (tokens := (end - begin) * widths[row]) <= self.max_tokens or begin == end - 1
            }
            best = min(costs, key=costs.__getitem__)
            cheapest.append(costs[best])
            cut.append(best)
        found, end = [], len(order)
        while end:
            found.append(order[cut[end] : end])
            end = cut[end]
        return found[::-1]

    def tokens(self, widths: Sequence[int]) -> int:
        """Returns the total tokens of the forwards over rows of these widths, padding included."""
        return sum(len(forward) * max(widths[row] for row in forward) for forward in self.forwards(widths))

    def groups(self, prompts: Sequence[Row]) -> list[list[int]]:
        """Returns the prompt numbers of each group; prompts of similar length are grouped."""
        widths = [[packed_length(row) for row in self.rows(sequences)] for sequences in prompts]
        most = enough_tokens(self.max_tokens, self.device)
        found: list[list[int]] = []
        together: list[int] = []
        for prompt in sorted(range(len(prompts)), key=lambda number: max(widths[number])):
            if found and self.tokens(together + widths[prompt]) <= most:
                found[-1].append(prompt)
                together += widths[prompt]
            else:
                found.append([prompt])
                together = list(widths[prompt])
        return found

    def without_sharing(self) -> Packing:
        """Returns the same packing without shared rows, for a model that does not support them."""
        return replace(self, sharing="off")

    def _shared_rows(self, sequences: Row) -> list[Row]:
        """Returns rows of at most `max_tokens`, each with as many neighbouring sequences as fit."""
        rows: list[Row] = []
        for sequence in sequences:
            if rows and packed_length([*rows[-1], sequence]) <= self.max_tokens:
                rows[-1].append(sequence)
            else:
                rows.append([sequence])
        return rows


def worth_sharing(shared: Sequence[Row], separate: Sequence[Row], hidden_size: int) -> bool:
    """Tells whether the shared rows of a prompt cost less than the separate ones.

    cost = tokens + query-key pairs / hidden size, masked pairs included: a pair costs about 1 / (hidden size) of what
    a token costs in the linear layers (0.8 and 1.4 times that on CPUs, less on a GPU).
    """
    return _cost(shared, hidden_size) < _cost(separate, hidden_size)


def _cost(rows: Sequence[Row], hidden_size: int) -> float:
    total = 0.0
    for row in rows:
        width = packed_length(row)
        pairs: float = width**2
        if len(row) > 1:
            prefix = prefix_length(row)
            pairs = computed_pairs(1, width, prefix, len(row), max(map(len, row)) - prefix)
        total += width + pairs / hidden_size
    return total
