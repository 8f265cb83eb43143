"""What the reward benchmark trains on: cases, their random comparisons, and the pairs that TRL gets."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

Item = dict[str, Any]
FIRST_ID = 3
"""Smaller ids are special tokens of the models used here."""
SEARCH_PAIRS = 4
"""TRL's micro-batches are each tried on about this many pairs."""


@dataclass(frozen=True)
class Case:
    """K responses to each prompt, of given lengths, and how many prompts are trained on."""

    responses: int  # K
    prompt_tokens: int  # of each prompt
    response_tokens: int  # of each response
    prompts: int  # of one optimizer step, on both sides
    trl_steps: int  # optimizer steps that TRL is timed over
    our_steps: int  # the same of ours, which are shorter
    micro_batches: tuple[int, ...]  # pairs per forward of TRL; the fastest of these is used
    goal: float  # comparisons/s relative to TRL: the project's own target, set before measuring, below `allowed`

    @property
    def name(self) -> str:
        """Such as "K=4, 1:1"."""
        return f"K={self.responses}, {self.prompt_tokens // self.response_tokens}:1"

    @property
    def pairs(self) -> int:
        """Comparisons per prompt."""
        return math.comb(self.responses, 2)

    @property
    def allowed(self) -> float:
        """Tokens of all pairs over those of the prompt and its responses: the speed-up that token counts allow."""
        both = 2 * self.pairs * (self.prompt_tokens + self.response_tokens)
        return both / (self.prompt_tokens + self.responses * self.response_tokens)

    def items(self, prompts: int, vocabulary: int, seed: int = 0) -> list[Item]:
        """Returns random comparisons for `prompts` prompts, with ids below `vocabulary` and ranks without ties."""
        draw = random.Random(seed)
        items = []
        for _ in range(prompts):
            prompt = _ids(draw, self.prompt_tokens, vocabulary)
            sequences = [prompt + _ids(draw, self.response_tokens, vocabulary) for _ in range(self.responses)]
            ranks = draw.sample(range(1, self.responses + 1), self.responses)
            items.append(ranked_item(sequences, ranks))
        return items

    def search_pairs(self, micro_batch: int) -> int:
        """Pairs that a micro-batch is tried out on: SEARCH_PAIRS, in whole micro-batches."""
        return micro_batch * math.ceil(SEARCH_PAIRS / micro_batch)

    def smaller(self) -> Case:
        """Returns the case with an eighth of the tokens and one step, for --quick."""
        lengths = {"prompt_tokens": self.prompt_tokens // 8, "response_tokens": self.response_tokens // 8}
        fitting = tuple(size for size in self.micro_batches if self.pairs % size == 0)[:2]
        return replace(self, **lengths, prompts=1, trl_steps=1, our_steps=1, micro_batches=fitting)


CASES = (
    Case(4, 64, 64, prompts=3, trl_steps=2, our_steps=5, micro_batches=(1, 2, 6, 18), goal=3.5),
    Case(9, 64, 64, prompts=1, trl_steps=1, our_steps=5, micro_batches=(1, 2, 4, 9, 18), goal=10),
    Case(4, 256, 32, prompts=2, trl_steps=1, our_steps=5, micro_batches=(1, 2, 4, 6), goal=6),
    Case(9, 256, 32, prompts=1, trl_steps=1, our_steps=5, micro_batches=(1, 2, 4, 9), goal=25),
)


def ranked_item(sequences: list[list[int]], ranks: list[int]) -> Item:
    """Returns a comparison as the reward stage's DataModule makes it."""
    return {"sequences": sequences, "ranks": ranks, "margin": [0.0] * len(ranks)}


def pairs_of(items: Sequence[Item]) -> list[dict[str, list[int]]]:
    """Returns all pairs of each comparison, ties left out, as TRL's RewardTrainer takes them tokenised."""
    pairs = []
    for item in items:
        ranked = list(zip(item["ranks"], item["sequences"], strict=True))
        for one, other in itertools.combinations(ranked, 2):
            if one[0] != other[0]:
                better, worse = sorted((one, other), key=lambda entry: entry[0])
                pairs.append({"chosen_ids": better[1], "rejected_ids": worse[1]})
    return pairs


def steps_of(pairs: int, steps: int, micro_batch: int) -> int:
    """Returns the accumulation with which `pairs` make about `steps` optimizer steps of whole micro-batches."""
    return max(1, round(pairs / steps / micro_batch))


def fastest(tries: Sequence[dict[str, Any]]) -> int:
    """Returns the micro-batch of the try with most pairs per second."""
    return int(max(tries, key=lambda found: found["pairs_per_second"])["micro_batch"])


def _ids(draw: random.Random, count: int, vocabulary: int) -> list[int]:
    return draw.choices(range(FIRST_ID, vocabulary), k=count)
