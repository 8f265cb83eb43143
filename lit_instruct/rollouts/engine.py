"""Where PPO's responses are sampled: an engine takes prompts and the policy's present weights, and gives responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch

from lit_instruct.batches import PromptBatch
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import in_step
from lit_instruct.rollouts.generate import SamplingOptions, generate
from lit_instruct.rollouts.stopping import StopRule

Told = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


class Sampled(NamedTuple):
    """Responses to a batch of prompts."""

    responses: list[list[int]]
    """Token ids of each row's response, the EOS included if there is one."""
    log_probs: list[list[float]] | None = None
    """Of each of those tokens in nats, as the engine computed them; None if it does not say."""


class RolloutEngine(Protocol):
    """Samples from the policy as it is when it is asked."""

    def sample(self, batch: PromptBatch, key: tuple[int, ...], told: Told) -> Sampled:
        """Samples one response to each prompt; every process calls it equally often.

        Args:
            batch: prompts of this process, in host memory.
            key: of the random numbers; each row adds its row number in the dataset.
            told: called as sampling goes on.
        """

    def close(self) -> None:
        """Removes what sampling left elsewhere; sampling may go on after it."""


@dataclass
class NativeEngine:
    """Decodes in this process, on the policy's own weights."""

    roles: Roles
    sampling: SamplingOptions
    stop: StopRule
    pad_id: int
    device: torch.device
    batch_size: int = 32
    """Prompts that are decoded side by side."""
    merge: bool = True
    """Whether the policy's adapter is folded into a copy of the weights during decoding."""

    @torch.no_grad()
    def sample(self, batch: PromptBatch, key: tuple[int, ...], told: Told) -> Sampled:
        """Samples one response to each prompt, the longest prompts first.

        Under FSDP2, a process with fewer batches to decode than the others decodes its shortest prompt again.
        """
        responses: list[list[int]] = [[] for _ in batch.rows]
        lengths = batch.prompt_mask.sum(dim=1)
        order = lengths.argsort(descending=True, stable=True)
        with self.roles.merged("policy", fold=self.merge) as model:
            batches = in_step([*order.split(self.batch_size)], order[-1:], self.roles)
            most = self.sampling.max_new_tokens
            for place, rows in enumerate(batches):
                width = int(lengths[rows].max())
                sampled = generate(
                    model,
                    batch.prompt_ids[rows, -width:].to(self.device),
                    batch.prompt_mask[rows, -width:].to(self.device),
                    self.sampling,
                    self.stop,
                    [(*key, number) for number in batch.row_number[rows].tolist()],
                    self.pad_id,
                    partial(_tell, told, place * most, len(batches) * most),
                )
                everything = zip(rows.tolist(), sampled.ids.tolist(), sampled.mask.sum(dim=1).tolist(), strict=True)
                for row, ids, length in everything:
                    responses[row] = ids[:length]
        return Sampled(responses)

    def close(self) -> None:
        """Does nothing: it leaves nothing elsewhere."""


def _tell(told: Told, before: int, total: int, tokens: int) -> None:
    told(before + tokens, total)
