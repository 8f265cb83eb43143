"""Rollouts: sample a response to every prompt and score it under every role."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_instruct.batches import PromptBatch, Responses, Rollout, around_response, columns_from, right_pad
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import in_step
from lit_instruct.ppo.minibatches import Cut, minibatches_of, sequence_lengths
from lit_instruct.ppo.non_finite import NonFinite
from lit_instruct.ppo.ranks import Ranks
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.generate import SamplingOptions, generate
from lit_instruct.rollouts.reward_functions import TextScorer

Join = Callable[[PromptBatch, list[list[int]], Sequence[int], int], tuple[Tensor, Tensor, Tensor, Tensor]]
"""(prompts, responses, rows, pad id) -> (b, T) ids and mask, (b,) prompt lengths and (b, R) response mask."""


class Reward(NamedTuple):
    """One of the rewards of a response."""

    name: str
    """Under which it is logged."""
    weight: float
    """Factor with which it is added."""
    score: TextScorer | None
    """None for the reward role, which shares the base."""


class Rollouts(NamedTuple):
    """What one iteration learns from, on this process."""

    parts: list[Rollout]
    """One per micro-batch."""
    minibatches: list[list[list[int]]]
    """Rows of each micro-batch of each minibatch, in the order of `parts`."""
    responses: list[list[int]]
    """Ids of each row's response, the EOS included where it came."""
    sampled: float
    """`time.monotonic()` when sampling ended."""


class Collector:
    """Samples and scores.

    Args:
        roles: the networks.
        prompter: decodes responses, and knows stop and pad ids.
        sampling: how responses are sampled.
        rewards: the main reward first; the reward role itself can only be the main one.
        reward_bias: added to every score of the reward role.
        minibatches: into which an iteration's episodes are dealt.
        cut: cuts rows into micro-batches.
        guard: checks rewards before any weight changes.
        ranks: processes that refuse together.
        generation_batch_size: prompts decoded side by side.
        merge: whether the policy's adapter is folded into a copy of the weights while it decodes.
        join: lays prompts and responses side by side.
    """

    def __init__(
        self,
        roles: Roles,
        prompter: Prompter,
        sampling: SamplingOptions,
        rewards: Sequence[Reward],
        reward_bias: float,
        minibatches: int,
        cut: Cut,
        guard: NonFinite,
        ranks: Ranks,
        generation_batch_size: int = 32,
        merge: bool = True,
        join: Join | None = None,
    ) -> None:
        self.roles = roles
        self.prompter = prompter
        self.sampling = sampling
        self.stop = sampling.stop_rule(prompter)
        self.rewards = list(rewards)
        self.reward_bias = reward_bias
        self.minibatches = minibatches
        self.cut = cut
        self.guard = guard
        self.ranks = ranks
        self.generation_batch_size = generation_batch_size
        self.merge = merge
        self.join = join or join_rows

    def collect(self, batch: PromptBatch, key: tuple[int, int]) -> Rollouts:
        """Samples, deals the episodes into minibatches, and scores each micro-batch as the update will see it.

        Args:
            batch: prompts of this process.
            key: (seed, iteration) of the random numbers.

        Raises:
            UserError: a reward is refused, here or on another process.
        """
        responses = self.sample(batch, key)
        sampled = time.monotonic()
        lengths = sequence_lengths(batch, responses)
        minibatches = minibatches_of(lengths, self.minibatches, key, self.ranks, self.cut)
        parts = self.checked_scores(batch, responses, [part for minibatch in minibatches for part in minibatch])
        return Rollouts(parts, minibatches, responses, sampled)

    def collect_whole(self, batch: PromptBatch, key: tuple[int, int]) -> Rollouts:
        """Does the same with the batch as one minibatch, for episodes that are only measured."""
        responses = self.sample(batch, key)
        sampled = time.monotonic()
        parts = self.cut([*range(len(responses))], sequence_lengths(batch, responses))
        return Rollouts(self.checked_scores(batch, responses, parts), [parts], responses, sampled)

    @torch.no_grad()
    def sample(self, batch: PromptBatch, key: tuple[int, ...]) -> list[list[int]]:
        """Samples one response to each prompt from the policy.

        Under FSDP2 a process with fewer decodings than others first decodes its shortest prompt once more for each.

        Args:
            batch: prompts.
            key: of the random numbers; each row adds its number in the dataset.

        Returns:
            B lists of ids, the EOS included where it came.
        """
        responses: list[list[int]] = [[] for _ in batch.rows]
        lengths = batch.prompt_mask.sum(dim=1)
        order = lengths.argsort(descending=True, stable=True)
        with self.roles.merged("policy", fold=self.merge) as model:
            for rows in in_step([*order.split(self.generation_batch_size)], order[-1:], self.roles):
                width = int(lengths[rows].max())
                keys = [(*key, number) for number in batch.row_number[rows].tolist()]
                sampled: Responses = generate(
                    model,
                    batch.prompt_ids[rows, -width:],
                    batch.prompt_mask[rows, -width:],
                    self.sampling,
                    self.stop,
                    keys,
                    self.prompter.pad_id,
                )
                for row, ids, mask in zip(rows.tolist(), sampled.ids, sampled.mask, strict=True):
                    responses[row] = ids[mask].tolist()
        return responses

    def checked_scores(
        self, batch: PromptBatch, responses: list[list[int]], parts: Sequence[Sequence[int]]
    ) -> list[Rollout]:
        """Scores responses; NaN or inf in a reward, or a refused one, is refused on all processes."""

        def work() -> list[Rollout]:
            rollouts = self.score(batch, responses, parts)
            names = [reward.name for reward in self.rewards]
            self.guard.check_rewards(rollouts, parts, batch.rows, [self.stop.text(ids) for ids in responses], names)
            return rollouts

        return self.ranks.agree(work)

    def score(self, batch: PromptBatch, responses: list[list[int]], parts: Sequence[Sequence[int]]) -> list[Rollout]:
        """Scores responses under reference, policy, value and reward, part by part.

        A part is a micro-batch that keeps its composition and padded width in the update, so that the first ratio
        of new to old probability is exactly 1.

        Args:
            batch: prompts.
            responses: of `sample`.
            parts: row numbers of each part; together all rows, each once.

        Returns:
            One rollout per part.
        """
        outside = [self._outside_scores(reward.score, batch, responses) for reward in self.rewards]
        wanted = in_step([*parts], [0], self.roles)
        rollouts = [self.score_part(batch, responses, list(rows), outside) for rows in wanted]
        return rollouts[len(wanted) - len(parts) :]

    @torch.no_grad()
    def score_part(
        self, batch: PromptBatch, responses: list[list[int]], rows: list[int], outside: list[Tensor | None]
    ) -> Rollout:
        """Scores one micro-batch.

        Args:
            batch: prompts.
            responses: of `sample`.
            rows: b row numbers.
            outside: scores of all B rows from each reward, (B,) float32; None for the reward role.
        """
        roles, temperature = self.roles, self.sampling.temperature
        input_ids, mask, prompt_length, response_mask = (
            part.to(batch.prompt_ids.device) for part in self.join(batch, responses, rows, self.prompter.pad_id)
        )
        tokens = columns_from(input_ids, prompt_length, response_mask.shape[1])

        def around(hidden: Tensor) -> Tensor:
            return around_response(hidden, prompt_length, response_mask)

        hidden, trunk = roles.hidden_with_trunk("reference", input_ids, mask)
        reference, _ = roles.response_log_probs("reference", around(hidden), tokens, response_mask, temperature)
        hidden = around(roles.hidden("policy", input_ids, mask, trunk))
        log_probs, entropy = roles.response_log_probs(
            "policy", hidden, tokens, response_mask, temperature, with_entropy=True
        )
        if not roles.value_on_policy:
            hidden = around(roles.hidden("value", input_ids, mask, trunk))
        values = roles.values(hidden, response_mask)
        rewards = [scores[rows] for scores in outside if scores is not None]
        if outside[0] is None:
            hidden = around(roles.hidden("reward", input_ids, mask, trunk))
            rewards.insert(0, roles.rewards(hidden, response_mask) + self.reward_bias)
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
        )

    def _outside_scores(
        self, scorer: TextScorer | None, batch: PromptBatch, responses: list[list[int]]
    ) -> Tensor | None:
        if scorer is None:
            return None
        texts = [self.stop.text(ids) for ids in responses]
        prompts, device = [row.prompt for row in batch.rows], batch.prompt_ids.device

        def work() -> Tensor:
            return torch.tensor(scorer(prompts, texts), device=device)

        # Where every forward is a collective, a refusal must not wait for the forwards that follow.
        return self.ranks.agree(work) if self.ranks.sharded else work()


def join_rows(
    batch: PromptBatch, responses: list[list[int]], rows: Sequence[int], pad_id: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lays prompts and responses side by side, padded on the right, as narrow as the rows allow.

    Args:
        batch: prompts.
        responses: ids of each row's response.
        rows: b row numbers.
        pad_id: fills what follows a response.

    Returns:
        (b, T) ids and mask, (b,) prompt lengths, (b, R) response mask; True is real.
    """
    prompts = [batch.prompt_ids[row][batch.prompt_mask[row]].tolist() for row in rows]
    sequences = [prompt + responses[row] for prompt, row in zip(prompts, rows, strict=True)]
    input_ids, mask = right_pad(sequences, pad_id)
    _, response_mask = right_pad([responses[row] for row in rows], pad_id)
    return input_ids, mask, torch.tensor([len(prompt) for prompt in prompts]), response_mask
