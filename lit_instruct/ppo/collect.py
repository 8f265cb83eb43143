"""Rollouts: sample a response to every prompt and score it under every role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lit_instruct.batches import PromptBatch, Responses, Rollout, columns_from, right_pad
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import most_of_all
from lit_instruct.prompting import Prompter
from lit_instruct.rollouts.generate import SamplingOptions, generate
from lit_instruct.rollouts.reward_functions import TextScorer


class FurtherReward(NamedTuple):
    """A reward beside the main one."""

    name: str
    """Under which it is logged."""
    weight: float
    """With which it is added."""
    score: TextScorer


class Collector:
    """Samples and scores.

    Args:
        roles: the networks.
        prompter: decodes responses, and knows stop and pad ids.
        sampling: how responses are sampled.
        scorer: reward from text; None uses the reward role.
        reward_bias: added to every score of the reward role.
        missing_eos_penalty: taken off the score of a response that the length limit cut.
        generation_batch: prompts decoded side by side.
        further: rewards that are added to the main one.
        merge: whether the policy's adapter is folded into a copy of the weights while it decodes.
    """

    def __init__(
        self,
        roles: Roles,
        prompter: Prompter,
        sampling: SamplingOptions,
        scorer: TextScorer | None,
        reward_bias: float,
        missing_eos_penalty: float,
        generation_batch: int,
        further: Sequence[FurtherReward] = (),
        merge: bool = True,
    ) -> None:
        self.roles = roles
        self.prompter = prompter
        self.sampling = sampling
        self.scorer = scorer
        self.reward_bias = reward_bias
        self.missing_eos_penalty = missing_eos_penalty
        self.generation_batch = generation_batch
        self.stop = sampling.stop_rule(prompter)
        self.further = list(further)
        self.merge = merge
        self.on_all: Callable[[Callable[[], Tensor]], Tensor] = lambda work: work()
        """Runs what may be refused before the processes need each other; theirs have to be refused with it."""

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
            own = order.split(self.generation_batch)
            others = most_of_all(self.roles, len(own))[0] - len(own)
            for rows in [order[-1:]] * others + [*own]:
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

    def score(self, batch: PromptBatch, responses: list[list[int]], parts: Sequence[Sequence[int]]) -> list[Rollout]:
        """Scores responses under reference, policy, value and reward, part by part.

        A part is a micro-batch that keeps its composition and padded width in the update, so that the first ratio
        of new to old probability is exactly 1.

        Args:
            batch: prompts.
            responses: of `sample`.
            parts: row numbers of each part; together all rows, each once.

        Returns:
            One rollout a part.
        """
        scorers = [self.scorer, *(reward.score for reward in self.further)]
        outside = [self._outside_scores(scorer, batch, responses) for scorer in scorers]
        for _ in range(most_of_all(self.roles, len(parts))[0] - len(parts)):  # that other processes have
            self._score_part(batch, responses, [0], outside)
        return [self._score_part(batch, responses, list(rows), outside) for rows in parts]

    def _outside_scores(
        self, scorer: TextScorer | None, batch: PromptBatch, responses: list[list[int]]
    ) -> Tensor | None:
        if scorer is None:
            return None
        texts = [self.stop.text(ids) for ids in responses]
        prompts, device = [row.prompt for row in batch.rows], batch.prompt_ids.device
        return self.on_all(lambda: torch.tensor(scorer(prompts, texts), device=device))

    @torch.no_grad()
    def _score_part(
        self, batch: PromptBatch, responses: list[list[int]], rows: list[int], outside: list[Tensor | None]
    ) -> Rollout:
        roles, temperature = self.roles, self.sampling.temperature
        input_ids, mask, prompt_length, response_mask = self._join(batch, responses, rows)
        tokens = columns_from(input_ids, prompt_length, response_mask.shape[1])

        def around(hidden: Tensor) -> Tensor:
            return columns_from(hidden, prompt_length - 1, response_mask.shape[1] + 1)

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
        raw = parts @ parts.new_tensor([1.0, *(reward.weight for reward in self.further)])
        ended = torch.tensor([self.stop.ended(responses[row]) for row in rows], device=raw.device)
        scores = raw - self.missing_eos_penalty * ~ended
        mean_entropy = entropy.sum(dim=1) / response_mask.sum(dim=1)
        return Rollout(
            input_ids=input_ids,
            attention_mask=mask,
            prompt_length=prompt_length,
            response_mask=response_mask,
            log_probs=log_probs,
            reference_log_probs=reference,
            values=values,
            scores=scores,
            raw_scores=raw,
            reward_parts=parts,
            ended=ended,
            entropy=mean_entropy,
            trunk=trunk,
        )

    def _join(self, batch: PromptBatch, responses: list[list[int]], rows: list[int]) -> tuple[Tensor, ...]:
        """Returns (b, T) ids and mask, (b,) prompt lengths and (b, R) response mask of rows, as narrow as can be."""
        device = batch.prompt_ids.device
        prompts = [batch.prompt_ids[row][batch.prompt_mask[row]].tolist() for row in rows]
        sequences = [prompt + responses[row] for prompt, row in zip(prompts, rows, strict=True)]
        input_ids, mask = right_pad(sequences, self.prompter.pad_id)
        prompt_length = torch.tensor([len(prompt) for prompt in prompts])
        _, response_mask = right_pad([responses[row] for row in rows], self.prompter.pad_id)
        return tuple(part.to(device) for part in (input_ids, mask, prompt_length, response_mask))
