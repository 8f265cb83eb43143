"""One update of PPO: from scores to advantages, from advantages to gradients, from gradients to a step."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_instruct.batches import PromptBatch, Rollout, columns_from
from lit_instruct.errors import UserError
from lit_instruct.losses.advantages import generalized_advantages, token_rewards
from lit_instruct.losses.divergence import adapted_kl_coef, kl_estimate
from lit_instruct.losses.masked import Moments, masked_moments, whiten
from lit_instruct.losses.policy import clipped_policy_loss, clipped_value_loss
from lit_instruct.models.roles import Roles
from lit_instruct.models.sharding import is_sharded, most_of_all
from lit_instruct.ppo.minibatches import deal, idle_part, micro_batches, sequence_lengths
from lit_instruct.ppo.non_finite import non_finite, save_episodes
from lit_instruct.ppo.options import (
    KLControlOptions,
    PPOOptimizerOptions,
    PPOOptions,
    PretrainingOptions,
    ShapingOptions,
)
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.stages.base import StageModule

if TYPE_CHECKING:
    from data_modules.prompts import PromptDataModule

log = logging.getLogger(__name__)
KL_GAIN = 0.1
"""Of adaptive KL, as in Ziegler et al. 2019."""
Minibatch = list[tuple[Rollout, tuple[Tensor, Tensor]]]
"""Micro-batches, each with its advantages and returns."""


class PPOUpdate(StageModule):
    """The part of `PPOModule` that turns scored rollouts into optimizer steps."""

    roles: Roles
    options: PPOOptions
    kl_control: KLControlOptions
    shaping: ShapingOptions
    optimizer_options: PPOOptimizerOptions
    pretraining: PretrainingOptions
    sampling: SamplingOptions
    kl_coef: float
    """beta of this iteration."""
    score_moments: Moments
    """Of all scores so far, where they are normalised."""
    iterations_done: int
    first_ratio_error: float
    """Largest |ratio - 1| before this iteration's first step."""
    advantage_std: float
    """Of this iteration's advantages before they are whitened."""
    skipped_steps: int
    """Of this iteration, for a NaN or infinity."""
    saved_for_a_look: Path | None
    """Where episodes of this iteration lie, after a NaN or infinity."""

    def _iteration_key(self) -> int:
        return self.seed * 1_000_003 + self.iterations_done

    def _minibatches(self, batch: PromptBatch, responses: list[list[int]]) -> list[list[list[int]]]:
        """Returns the local rows of each minibatch, cut into micro-batches."""
        first, total = self.trainer.global_rank * len(responses), self.trainer.world_size * len(responses)
        dealt = deal(total, self.options.minibatches, self._iteration_key())
        lengths = sequence_lengths(batch, responses)
        return [
            self._micro_batches([row - first for row in rows if 0 <= row - first < len(responses)], lengths)
            for rows in dealt
        ]

    def _micro_batches(self, rows: list[int], lengths: list[int]) -> list[list[int]]:
        return micro_batches(rows, lengths, self.options.micro_batch_size, self.device.type)

    def _shape(self, rollouts: list[Rollout]) -> list[Rollout]:
        """Normalises, scales and clips the scores; what a missing EOS cost is taken off after that."""
        shaping = self.shaping
        if shaping.normalize_rewards:
            raw = torch.cat([rollout.raw_scores for rollout in rollouts])
            seen = masked_moments(raw, raw.isfinite())
            fresh = self._global_moments([seen])
            self.score_moments = Moments(*(old + new for old, new in zip(self.score_moments, fresh, strict=True)))
        return [self._shaped(rollout) for rollout in rollouts]

    def _shaped(self, rollout: Rollout) -> Rollout:
        shaping, scores = self.shaping, rollout.raw_scores
        if shaping.normalize_rewards:
            scores = whiten(scores, torch.ones_like(scores, dtype=torch.bool), self.score_moments)
        scores = scores * shaping.reward_scale
        if shaping.reward_clip is not None:
            scores = scores.clamp(-shaping.reward_clip, shaping.reward_clip)
        if shaping.missing_eos_score is not None:
            return rollout._replace(scores=scores.where(rollout.ended, shaping.missing_eos_score))
        return rollout._replace(scores=scores - self.options.missing_eos_penalty * ~rollout.ended)

    def _targets(self, rollouts: list[Rollout]) -> list[tuple[Tensor, Tensor]]:
        """Returns advantages and returns of every part; whitening is over the global batch."""
        options = self.options
        rewards = []
        for rollout in rollouts:
            kl = kl_estimate(rollout.log_probs, rollout.reference_log_probs, options.kl_estimator)
            rewards.append(token_rewards(rollout.scores, kl, rollout.response_mask, self.kl_coef))
        if self.shaping.whiten_rewards:
            rewards = self._whitened(rewards, rollouts, keep_mean=True)
        targets = [
            generalized_advantages(r, rollout.values, rollout.response_mask, options.discount, options.gae_lambda)
            for r, rollout in zip(rewards, rollouts, strict=True)
        ]
        advantages, returns = [a for a, _ in targets], [g for _, g in targets]
        self.advantage_std = float(self._moments(advantages, rollouts).variance.sqrt())
        if self.shaping.whiten_advantages:
            advantages = self._whitened(advantages, rollouts)
        return list(zip(advantages, returns, strict=True))

    def _whitened(self, values: list[Tensor], rollouts: list[Rollout], keep_mean: bool = False) -> list[Tensor]:
        moments = self._moments(values, rollouts)
        return [whiten(v, r.response_mask, moments, keep_mean) for v, r in zip(values, rollouts, strict=True)]

    def _moments(self, values: list[Tensor], rollouts: list[Rollout]) -> Moments:
        return self._global_moments([masked_moments(v, r.response_mask) for v, r in zip(values, rollouts, strict=True)])

    def _global_moments(self, moments: list[Moments]) -> Moments:
        local = torch.stack([torch.stack([part.cpu() for part in moment]) for moment in moments]).sum(dim=0)
        return Moments(*self._sum_over_processes(local))

    def _update(self, minibatch: Minibatch) -> dict[str, float]:
        """One optimizer step on one minibatch; losses are means over its tokens on all processes."""
        local = torch.tensor(float(sum(int(rollout.response_mask.sum()) for rollout, _ in minibatch)))
        tokens = float(self._sum_over_processes(local))
        totals = torch.zeros(4)
        others = most_of_all(self.roles, len(minibatch))[0] - len(minibatch)
        with self._no_sync():
            for rollout, (advantages, returns) in minibatch + [idle_part(self.device)] * others:
                totals[:3] += self._backward_part(rollout, advantages, returns, tokens)
            if self.pretraining.ptx_coef:
                totals[3] = self._backward_pretraining()
        names = ["loss/policy", "loss/value", "ppo/clip_share"] + (
            ["loss/pretraining"] if self.pretraining.ptx_coef else []
        )
        losses = dict(zip(names, self._sum_over_processes(totals).tolist(), strict=False))
        self._step(minibatch, losses)
        return losses

    def _backward_part(self, rollout: Rollout, advantages: Tensor, returns: Tensor, tokens: float) -> Tensor:
        """Adds a micro-batch's gradients: backward for one role before the next role's adapter becomes active."""
        roles, options, shaping = self.roles, self.options, self.shaping
        mask, temperature = rollout.response_mask, self.sampling.temperature
        hidden = self._hidden("policy", rollout)
        log_probs, entropy = roles.response_log_probs(
            "policy", hidden, rollout.response_ids, mask, temperature, with_entropy=shaping.entropy_coef != 0
        )
        if self.steps_in_iteration == 0:
            error = (log_probs.detach() - rollout.log_probs).expm1().abs().max()
            self.first_ratio_error = max(self.first_ratio_error, float(error))
        policy_loss, clipped = clipped_policy_loss(log_probs, rollout.log_probs, advantages, mask, options.clip_range)
        divisor = tokens / self._gradient_weight()
        loss = (policy_loss - shaping.entropy_coef * entropy.sum()) / divisor
        if not roles.value_on_policy:
            loss.backward()
            loss = torch.zeros_like(loss)
            hidden = self._hidden("value", rollout)
        value_loss = clipped_value_loss(
            roles.values(hidden, mask), rollout.values, returns, mask, options.value_clip_range
        )
        (loss + shaping.value_coef * value_loss / divisor).backward()
        return torch.stack([policy_loss.detach(), value_loss.detach(), clipped.float()]).cpu() / tokens

    def _hidden(self, role: Literal["policy", "value"], rollout: Rollout) -> Tensor:
        """Returns a role's states around the responses: (B, R + 1, H)."""
        with self.offloading:
            hidden = self.roles.hidden(role, rollout.input_ids, rollout.attention_mask, rollout.trunk)
        return columns_from(hidden, rollout.prompt_length - 1, rollout.response_mask.shape[1] + 1)

    def _backward_pretraining(self) -> float:
        """Adds the gradients of gamma times the mean next-token loss on pretraining text; returns the loss."""
        data: PromptDataModule = self.trainer.datamodule
        options, world = self.pretraining, self.trainer.world_size
        step = self.iterations_done * self.options.inner_epochs * self.options.minibatches + self.steps_in_iteration
        episodes = data.batch_size / self.options.minibatches
        count = max(1, round(options.ptx_batch_ratio * episodes))
        assert data.pretraining is not None
        blocks = data.pretraining.batch(step, count)
        mean_over = blocks[:, 1:].numel()
        blocks = blocks.tensor_split(world)[self.trainer.global_rank].to(self.device)
        total = 0.0
        parts = [*blocks.split(self.options.micro_batch_size)]
        others = most_of_all(self.roles, len(parts))[0] - len(parts)
        for part in parts + [blocks[:0]] * others:
            with self.offloading:
                hidden = self.roles.hidden("policy", part, torch.ones_like(part, dtype=torch.bool))
            found = self.roles.token_log_probs("policy", hidden[:, :-1].flatten(0, 1), part[:, 1:].flatten())
            loss = -found.log_probs.sum() / mean_over
            (options.ptx_coef * self._gradient_weight() * loss).backward()
            total += float(loss)
        return total

    def _control_kl(self, kl: float) -> None:
        """Adapts the price of divergence to its target, and acts where the bound was passed."""
        control = self.kl_control
        if control.target is not None:
            self.kl_coef = adapted_kl_coef(self.kl_coef, kl, control.target, control.gain or KL_GAIN)
        if control.bound is None or kl <= control.bound:
            return
        what = f"iteration {self.iterations_done}: KL {kl:.1f} nats passed --model.kl_control.bound={control.bound}"
        if control.on_bound == "stop":
            log.warning("%s; the training ends here", what)
            self.trainer.should_stop = True
        else:
            log.warning("%s; the policy's learning rate is halved", what)
            self.lr_schedulers().base_lrs[0] /= 2

    @property
    def steps_in_iteration(self) -> int:
        """Optimizer steps taken since the iteration began."""
        per_iteration = self.options.inner_epochs * self.options.minibatches
        return self.global_step - self.iterations_done * per_iteration

    def _step(self, minibatch: Minibatch, losses: dict[str, float]) -> None:
        """One optimizer step, unless a loss or gradient is NaN or infinite: sums, so that all processes agree."""
        optimizer, norms = self.optimizers(), {}
        for role, group in zip(("policy", "value"), optimizer.param_groups, strict=True):
            self._reduce_gradients(group["params"])
            norm = torch.nn.utils.clip_grad_norm_(group["params"], self.optimizer_options.max_grad_norm)
            norms[f"the gradient of the {role}"] = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        wrong = non_finite(losses | norms)
        if wrong:
            self._skip_step(minibatch, wrong)
            optimizer.zero_grad()  # a step without gradients changes no weight, but it counts
        optimizer.step()
        optimizer.zero_grad()

    def _skip_step(self, minibatch: Minibatch, wrong: list[str]) -> None:
        """Saves the minibatch for a look, and lets the training go on or end with this iteration."""
        self.skipped_steps += 1
        if self.saved_for_a_look is not None:  # the first fault of an iteration explains the others
            return
        step = self.steps_in_iteration + 1
        self._save_for_a_look([rollout for rollout, _ in minibatch], [pair for _, pair in minibatch], wrong)
        what = f"iteration {self.iterations_done + 1}, step {step}: {', '.join(wrong)}"
        if self.optimizer_options.on_non_finite == "skip":
            log.warning("%s; the step is skipped, its minibatch is in %s", what, self.saved_for_a_look)
            return
        self.fault = UserError(
            f"{what}; the step was not taken, its minibatch is in {self.saved_for_a_look}; lower "
            "--model.optimizer.learning_rate, or skip such steps with --model.optimizer.on_non_finite=skip"
        )

    def _save_for_a_look(
        self, rollouts: list[Rollout], targets: list[tuple[Tensor, Tensor]] | None, wrong: list[str]
    ) -> None:
        """Writes this process's episodes into the run folder."""
        name = f"iteration-{self.iterations_done + 1}" if self.trainer.training else f"after-{self.iterations_done}"
        if self.trainer.world_size > 1:
            name += f"-process-{self.trainer.global_rank}"
        self.saved_for_a_look = Path(self.trainer.default_root_dir) / "non_finite" / name
        facts = {"iteration": self.iterations_done + 1, "wrong": wrong}
        save_episodes(self.saved_for_a_look, rollouts, targets, facts, self.prompter.decode)

    def _reduce_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Sums gradients over processes in one message; a process without rows in a minibatch adds zeros."""
        if self.trainer.world_size == 1 or is_sharded(self.roles):
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.trainer.strategy.reduce(flat, reduce_op="sum")
        for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter)

    def _gradient_weight(self) -> int:
        """What a loss is multiplied by for the sum of the gradients of all processes: FSDP2 averages them."""
        return self.trainer.world_size if is_sharded(self.roles) else 1

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return values
        return self.trainer.strategy.reduce(values.to(self.device).clone(), reduce_op="sum").cpu()

    @contextmanager
    def _no_sync(self) -> Iterator[None]:
        """Keeps DDP from averaging gradients: they are summed once, after the last micro-batch."""
        wrapped = self.trainer.strategy.model
        with wrapped.no_sync() if hasattr(wrapped, "no_sync") else nullcontext():
            yield
