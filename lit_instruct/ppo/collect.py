"""Rollouts: sample a response to every prompt and score it under every role."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from lit_instruct.batches import PromptBatch, Rollout, around_response, columns_from, right_pad
from lit_instruct.models.roles import Roles, reward_role
from lit_instruct.models.sharding import in_step
from lit_instruct.ppo.ensemble import Ensemble
from lit_instruct.ppo.length_penalty import LengthPenalty
from lit_instruct.ppo.minibatches import Cut, minibatches_of, sequence_lengths
from lit_instruct.ppo.mismatch import Mismatch, with_sampled
from lit_instruct.ppo.non_finite import NonFinite
from lit_instruct.ppo.phases import Phases
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.engine import RolloutEngine, Sampled
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.reward_functions import TextScorer


class Reward(NamedTuple):
    """One of the rewards of a response."""

    name: str
    """The name in the logs."""
    weight: float
    """Its factor in the sum of all rewards."""
    score: TextScorer | None
    """None for the reward roles, which share the base, and for the length penalty."""
    origin: str = "the reward model"
    """Option and function that it comes from, for messages."""


class Rollouts(NamedTuple):
    """What one iteration learns from, on this process."""

    parts: list[Rollout]
    """One per micro-batch."""
    minibatches: list[list[list[int]]]
    """Rows of each micro-batch of each minibatch, in the order of `parts`."""
    responses: list[list[int]]
    """Token ids of each row's response, the EOS included if there is one."""
    sampled: float
    """`time.monotonic()` when sampling ended."""
    mismatch: dict[str, float]
    """How far the engine's log-probabilities are from ours, by names in the log; empty if the engine is native."""

    @property
    def rows(self) -> list[list[int]]:
        """Row numbers of each micro-batch, in the order of `parts`."""
        return [part for minibatch in self.minibatches for part in minibatch]


@dataclass
class Collector:
    """Samples a response to every prompt and scores it under every role."""

    roles: Roles
    prompter: Prompter
    sampling: SamplingOptions
    rewards: Sequence[Reward]
    """The main reward comes first; only that one may be the reward role."""
    ensemble: Ensemble
    """What the scores of the reward roles become."""
    minibatches: int
    """Number of minibatches in an iteration."""
    cut: Cut
    guard: NonFinite
    """Checks rewards before any weight changes."""
    ranks: Ranks
    engine: RolloutEngine
    """Samples the responses."""
    mismatch: Mismatch = field(default_factory=Mismatch)
    """Compares the engine's log-probabilities with ours."""
    phases: Phases = field(default_factory=Phases)
    length_penalty: LengthPenalty | None = None
    """The last of `rewards`, if there is one."""
    responses_per_prompt: int = 1
    """Responses of an iteration to each prompt; in a batch that is only measured there is one."""

    def __post_init__(self) -> None:
        self.stop = self.sampling.stop_rule(self.prompter)

    def collect(self, batch: PromptBatch, key: tuple[int, int], whole: bool = False) -> Rollouts:
        """Samples, deals the episodes into minibatches, and scores each micro-batch as the update will see it.

        Args:
            batch: prompts of this process.
            key: (seed, iteration) of the random numbers.
            whole: makes the batch one minibatch, for episodes that are only measured.

        Raises:
            UserError: a reward is refused, here or on another process; or the engine samples from another policy.
        """
        batch = batch.cpu() if whole else batch.cpu().repeated(self.responses_per_prompt)
        sample = self.sample(batch, key)
        responses = sample.responses
        sampled = time.monotonic()
        lengths = sequence_lengths(batch, responses)
        if whole:
            minibatches = [self.cut([*range(len(lengths))], lengths)]
        else:
            minibatches = minibatches_of(lengths, self.minibatches, key, self.ranks, self.cut)
        parts = [part for minibatch in minibatches for part in minibatch]
        rollouts = self.ranks.agree(lambda: self._checked_scores(batch, sample, parts))
        return Rollouts(rollouts, minibatches, responses, sampled, self.mismatch(rollouts, self.ranks))

    def sample(self, batch: PromptBatch, key: tuple[int, ...]) -> Sampled:
        """Samples one response to each prompt from the policy.

        Args:
            batch: prompts.
            key: of the random numbers; each row adds its row number in the dataset.
        """
        return self.engine.sample(batch.cpu(), key, partial(self.phases, "sampling"))

    def _checked_scores(self, batch: PromptBatch, sample: Sampled, parts: Sequence[Sequence[int]]) -> list[Rollout]:
        responses, theirs = sample
        scored = zip(self.score(batch, responses, parts), parts, strict=True)
        rollouts = [with_sampled(rollout, rows, theirs) for rollout, rows in scored]
        origins = {reward.name: reward.origin for reward in self.rewards}
        self.guard.check_rewards(rollouts, parts, batch.rows, [self.stop.text(ids) for ids in responses], origins)
        return rollouts

    def score(self, batch: PromptBatch, responses: list[list[int]], parts: Sequence[Sequence[int]]) -> list[Rollout]:
        """Scores responses under reference, policy, value and reward; returns one rollout per part.

        A part is a micro-batch that keeps its rows and its padded width in the update, so that the first ratio of new
        to old probability is exactly 1.

        Args:
            batch: prompts.
            responses: token ids of each row's response.
            parts: row numbers of each part; every row is in exactly one part.
        """
        self.phases("scoring", 0, len(parts))
        batch = batch.cpu()
        outside = [self._outside_scores(reward.score, batch, responses) for reward in self.rewards]
        wanted = in_step([*parts], [0], self.roles)
        rollouts = []
        for number, rows in enumerate(wanted, start=1):
            self.phases("scoring", number, len(wanted))
            rollouts.append(self.score_part(batch, responses, list(rows), outside))
        return rollouts[len(wanted) - len(parts) :]

    @torch.no_grad()
    def score_part(
        self, batch: PromptBatch, responses: list[list[int]], rows: list[int], outside: list[Tensor | None]
    ) -> Rollout:
        """Scores one micro-batch.

        Args:
            batch: prompts, in host memory.
            responses: token ids of each row's response.
            rows: row numbers of the micro-batch.
            outside: each reward's scores of the whole batch, (B,) float32; None for the reward role.
        """
        roles, temperature = self.roles, self.sampling.temperature
        joined = self.join(batch, responses, rows)
        input_ids, mask, prompt_length, response_mask, places = (
            part.to(self.ranks.device) for part in (*joined, torch.stack(joined[-1].nonzero(as_tuple=True)))
        )
        padding = None if bool(joined[1][:, 0].all()) else mask
        tokens = columns_from(input_ids, prompt_length, response_mask.shape[1])

        def around(hidden: Tensor) -> Tensor:
            return around_response(hidden, prompt_length, response_mask)

        hidden, trunk = roles.hidden_with_trunk("reference", input_ids, padding)
        asked = (tokens, response_mask, temperature)
        reference, _ = roles.response_log_probs("reference", around(hidden), *asked, places=places)
        hidden = around(roles.hidden("policy", input_ids, padding, trunk))
        log_probs, entropy = roles.response_log_probs("policy", hidden, *asked, with_entropy=True, places=places)
        if not roles.value_on_policy:
            hidden = around(roles.hidden("value", input_ids, padding, trunk))
        values = roles.values(hidden, response_mask)
        rewards = [scores[rows] for scores in outside if scores is not None]
        if outside[0] is None:
            members = [
                roles.rewards(
                    around(roles.hidden(reward_role(member), input_ids, padding, trunk)), response_mask, member
                )
                for member in range(len(roles.reward_heads))
            ]
            main, *std = self.ensemble.combine(members)
            rewards = [main, *rewards, *std]
        if self.length_penalty is not None:
            rewards.append(self.length_penalty(response_mask.sum(dim=1)))
        parts = torch.stack(rewards, dim=1)
        ended = torch.tensor([self.stop.ended(responses[row]) for row in rows], device=parts.device)
        return Rollout(
            input_ids=input_ids,
            attention_mask=mask,
            prompt_length=prompt_length,
            response_mask=response_mask,
            log_probs=log_probs,
            reference_log_probs=reference,
            values=values,
            scores=parts @ parts.new_tensor([reward.weight for reward in self.rewards]),
            reward_parts=parts,
            ended=ended,
            entropy=entropy.sum(dim=1) / response_mask.sum(dim=1),
            trunk=trunk,
            places=places if padding is None else None,
        )

    def join(self, batch: PromptBatch, responses: list[list[int]], rows: Sequence[int]) -> tuple[Tensor, ...]:
        """Joins prompts and responses of b rows, padded on the right and no wider than the rows need.

        Returns:
            (b, T) token ids and mask, (b,) prompt lengths, (b, R) response mask; True is a real token.
        """
        prompts = [batch.prompt_ids[row][batch.prompt_mask[row]].tolist() for row in rows]
        sequences = [prompt + responses[row] for prompt, row in zip(prompts, rows, strict=True)]
        input_ids, mask = right_pad(sequences, self.prompter.pad_id)
        _, response_mask = right_pad([responses[row] for row in rows], self.prompter.pad_id)
        return input_ids, mask, torch.tensor([len(prompt) for prompt in prompts]), response_mask

    def _outside_scores(
        self, scorer: TextScorer | None, batch: PromptBatch, responses: list[list[int]]
    ) -> Tensor | None:
        if scorer is None:
            return None
        prompts, texts = [row.prompt for row in batch.rows], [self.stop.text(ids) for ids in responses]
        rows = [row.columns() for row in batch.rows]

        def work() -> Tensor:
            return torch.tensor(scorer(prompts, texts, rows), dtype=torch.float32, device=self.ranks.device)

        # If every forward is a collective, all processes must know of a refusal before the next forward.
        return self.ranks.agree(work) if self.ranks.sharded else work()
