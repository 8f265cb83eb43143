"""Step 3: proximal policy optimisation against the reward model (section 3.5, eq. 2, C.4)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor

from lit_instruct.batches import PromptBatch, Rollout
from lit_instruct.errors import UserError
from lit_instruct.handover import check_same_format, find_parent, read_stage_of
from lit_instruct.losses.advantages import generalized_advantages, token_rewards
from lit_instruct.losses.divergence import kl_estimate
from lit_instruct.losses.masked import Moments, masked_moments, whiten
from lit_instruct.losses.policy import clipped_policy_loss, clipped_value_loss, explained_variance
from lit_instruct.models.assemble import ppo_roles, shares_base
from lit_instruct.models.heads import token_log_probs
from lit_instruct.models.loading import DtypeName, Source, find_source
from lit_instruct.models.lora import LoraOptions, save_adapter
from lit_instruct.prompting import prompt_text
from lit_instruct.rollouts.collect import Collector, TextScorer
from lit_instruct.rollouts.generate import SamplingOptions
from lit_instruct.rollouts.score import TextReward, label, load_labeler
from lit_instruct.stages.base import PromptOptions, StageModule
from lit_instruct.stages.ppo_options import PPOOptimizerOptions, PPOOptions, PretrainingOptions

if TYPE_CHECKING:
    from data_modules.prompts import PromptDataModule

VALIDATION_KEY = 2**31 - 1
"""Stands where the iteration stands in the key of training samples."""


class PPOModule(StageModule):
    """Optimises a policy against a reward with a KL penalty; one training step is one iteration of PPO.

    Args:
        base: SFT model to start from and to stay close to, by default the SFT stage of the same run.
        reward: reward model: a stage folder or a hub sequence classifier; null with `reward_function`.
        reward_function: import path of a Python function list[(prompt, response)] -> list[float] to use instead.
        iterations: length of the training.
        lora: adapter options of the policy; null trains every weight.
        ppo: the objective.
        optimizer: learning rates.
        sampling: how responses are sampled.
        pretraining: the pretraining mix; needs --data.pretraining_path.
        prompt: prompt format; that of the SFT stage where `base` is one.
        dtype: of frozen weights; auto is bfloat16 where the device computes in it.
        generation_batch_size: prompts decoded side by side.
        seed: of everything random.
    """

    def __init__(
        self,
        base: str = "{run}/sft",
        reward: str | None = "{run}/rm",
        reward_function: str | None = None,
        iterations: int = 100,
        lora: LoraOptions | None = LoraOptions(),
        ppo: PPOOptions = PPOOptions(),
        optimizer: PPOOptimizerOptions = PPOOptimizerOptions(),
        sampling: SamplingOptions = SamplingOptions(),
        pretraining: PretrainingOptions = PretrainingOptions(),
        prompt: PromptOptions | None = None,
        dtype: DtypeName = "auto",
        generation_batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__("ppo", base, lora, dtype, prompt, seed)
        if reward_function is None and reward is None:
            raise UserError("--model.reward: give a reward model, or a function by --model.reward_function")
        self.automatic_optimization = False
        self.reward_name = None if reward_function else reward
        self.reward_function = reward_function
        self.iterations = iterations
        self.options = ppo
        self.optimizer_options = optimizer
        self.sampling = sampling
        self.pretraining = pretraining
        self.generation_batch_size = generation_batch_size
        self.parents = {"sft": base} | ({"reward": reward} if self.reward_name and reward else {})
        self.iterations_done = 0
        self.episodes_done = 0
        self.samples: list[dict[str, Any]] = []

    @cached_property
    def reward_source(self) -> Source | None:
        """Where the reward model lies; None for a function."""
        if self.reward_name is None:
            return None
        if self.reward_name.rstrip("/").endswith("rm"):
            return find_parent(self.reward_name, "rm", "ppo")
        return find_source(self.reward_name)

    @property
    def monitor(self) -> None:
        """No metric chooses a checkpoint: the last policy is the result."""
        return None

    def setup(self, stage: str) -> None:
        """Builds the four roles and what samples and scores with them."""
        if hasattr(self, "roles"):
            return
        if stage == "fit":
            self._check_data()
        torch.manual_seed(self.seed)
        reward = self.reward_source
        scorer = self._reward_from_outside()
        parent = read_stage_of(reward) if reward is not None else None
        if reward is not None and scorer is None:
            check_same_format(self.prompter, parent, reward.name, f"make rm RUN={Path(reward.name).parent.name}")
        bias = (parent.reward_bias if parent is not None else None) or 0.0
        self.roles = ppo_roles(self.source, reward, self.lora, self.frozen_dtype, bias)
        self.collector = Collector(
            self.roles,
            self.prompter,
            self.sampling,
            scorer,
            bias,
            self.options.missing_eos_penalty,
            self.generation_batch_size,
        )

    def on_fit_start(self) -> None:
        """Starts the clock and checks the trunk cache on the device it will run on."""
        super().on_fit_start()
        self.roles.check_trunk(self.device)

    def configure_optimizers(self) -> dict[str, Any]:
        """Returns one AdamW with a parameter group for each trained role, and its schedule over iterations."""
        options = self.optimizer_options
        groups = [
            {"params": self.roles.parameters_of("policy"), "lr": options.learning_rate},
            {"params": self.roles.parameters_of("value"), "lr": options.value_learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, options.beta2), weight_decay=options.weight_decay)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, options.share),
        }

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """One iteration: roll out, score, turn scores into advantages, update."""
        began = time.monotonic()
        minibatches = self._minibatches(batch)
        parts = [part for minibatch in minibatches for part in minibatch]
        responses = self.collector.sample(batch, (self.seed, self.iterations_done))
        sampled = time.monotonic()
        rollouts, entropy = self.collector.score(batch, responses, parts)
        targets = self._targets(rollouts)
        grouped = self._regroup(list(zip(rollouts, targets, strict=True)), minibatches)
        losses = [
            self._update(grouped[number]) for epoch in range(self.options.inner_epochs) for number in self._order(epoch)
        ]
        self.lr_schedulers().step()
        self.iterations_done += 1
        self.episodes_done += len(responses) * self.trainer.world_size
        tokens = sum(len(response) for response in responses)
        metrics = self._rollout_metrics(rollouts, targets, responses, entropy)
        metrics |= {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}
        metrics |= {
            "ppo/iteration": float(self.iterations_done),
            "ppo/episodes": float(self.episodes_done),
            "ppo/tokens_per_second": tokens * self.trainer.world_size / (time.monotonic() - began),
            "ppo/sampling_seconds": sampled - began,
            "ppo/iteration_seconds": time.monotonic() - began,
        }
        self.log_dict(metrics)
        if self.iterations_done >= self.iterations:
            self.trainer.should_stop = True

    def on_validation_epoch_start(self) -> None:
        """Starts collecting."""
        self.samples = []
        self.collected: list[dict[str, float]] = []

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Samples and scores held-out prompts with random numbers that are the same at every validation."""
        responses = self.collector.sample(batch, (self.seed, VALIDATION_KEY))
        size = self.options.micro_batch_size
        order = batch.prompt_mask.sum(dim=1).argsort(stable=True).tolist()
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        rollouts, _ = self.collector.score(batch, responses, parts)
        for rows, rollout in zip(parts, rollouts, strict=True):
            kl = (rollout.log_probs - rollout.reference_log_probs).sum(dim=1)
            for at, row in enumerate(rows):
                self.collected.append(
                    {
                        "val/reward": float(rollout.raw_scores[at]),
                        "val/kl": float(kl[at]),
                        "val/response_length": float(len(responses[row])),
                        "val/eos_share": float(responses[row][-1] in self.prompter.stop_ids),
                    }
                )
                self.samples.append(
                    {
                        "prompt": prompt_text(batch.rows[row].prompt),
                        "response": self.prompter.decode(responses[row]),
                        "reward": round(float(rollout.raw_scores[at]), 3),
                        "kl": round(float(kl[at]), 2),
                    }
                )

    def on_validation_epoch_end(self) -> None:
        """Logs the means over all processes."""
        names = ["val/reward", "val/kl", "val/response_length", "val/eos_share"]
        sums = torch.tensor([sum(row[name] for row in self.collected) for name in names] + [len(self.collected)])
        *totals, count = self._sum_over_processes(sums.double()).tolist()
        self.log_dict({name: total / count for name, total in zip(names, totals, strict=True)}, prog_bar=False)

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Measures the same as validation."""
        self.validation_step(batch, batch_idx)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the counters that random numbers and schedules depend on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ppo"] = {"iterations_done": self.iterations_done, "episodes_done": self.episodes_done}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the counters up again."""
        super().on_load_checkpoint(checkpoint)
        self.iterations_done = checkpoint["ppo"]["iterations_done"]
        self.episodes_done = checkpoint["ppo"]["episodes_done"]

    def save_model(self, folder: Path) -> None:
        """Writes the policy: its adapter, or the whole model."""
        network, adapter = self.roles.roles["policy"].network, self.roles.roles["policy"].adapter
        if isinstance(network, PeftModel) and adapter is not None:
            save_adapter(network, adapter, folder)
        else:
            network.save_pretrained(str(folder))

    def revision(self) -> str | None:
        """Returns the hub commit of the base, where it has one."""
        return getattr(self.roles.language_model("policy").config, "_commit_hash", None)

    def _check_data(self) -> None:
        data: PromptDataModule = self.trainer.datamodule
        if self.options.minibatches > data.batch_size:
            raise UserError(
                f"--model.ppo.minibatches={self.options.minibatches}: more than the {data.batch_size} prompts of "
                "--data.batch_size; lower it"
            )
        if self.pretraining.ptx_coef and data.pretraining is None:
            raise UserError("--model.pretraining.ptx_coef: needs a text to mix in; give --data.pretraining_path")

    def _reward_from_outside(self) -> TextScorer | None:
        """A scorer of text where the reward is a function, or a model that is no adapter on the policy's base."""
        if self.reward_function is not None:
            labeler, name = load_labeler(self.reward_function), self.reward_function
            return lambda prompts, texts: label(
                labeler, [(prompt_text(p), t) for p, t in zip(prompts, texts, strict=True)], name
            )
        if self.lora is not None and shares_base(self.source, self.reward_source):
            return None
        assert self.reward_name is not None
        model = TextReward.from_source(self.reward_name)
        return lambda prompts, texts: model.score(prompts, texts)

    def _minibatches(self, batch: PromptBatch) -> list[list[list[int]]]:
        """Returns the local rows of each minibatch, cut into micro-batches of similar prompt length.

        Which prompts form a minibatch follows from the global batch, so it is the same for any number of processes.
        """
        count, local = self.options.minibatches, len(batch.rows)
        total = local * self.trainer.world_size
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.iterations_done) % 2**63)
        shuffled = torch.randperm(total, generator=generator)
        first, lengths = self.trainer.global_rank * local, batch.prompt_mask.sum(dim=1)
        minibatches = []
        for group in shuffled.tensor_split(count):
            mine = group[(group >= first) & (group < first + local)] - first
            mine = mine[lengths[mine].cpu().argsort(stable=True)]
            minibatches.append([part.tolist() for part in mine.split(self.options.micro_batch_size) if len(part)])
        return minibatches

    def _order(self, epoch: int) -> list[int]:
        """The order in which an inner epoch takes the minibatches."""
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.iterations_done) * 31 + epoch)
        return torch.randperm(self.options.minibatches, generator=generator).tolist()

    @staticmethod
    def _regroup(items: list[Any], minibatches: list[list[list[int]]]) -> list[list[Any]]:
        """Cuts a flat list, one item a part, back into minibatches."""
        remaining = iter(items)
        return [[next(remaining) for _ in minibatch] for minibatch in minibatches]

    def _targets(self, rollouts: list[Rollout]) -> list[tuple[Tensor, Tensor]]:
        """Returns whitened advantages and returns of every part; the whitening is over the global batch."""
        options, targets = self.options, []
        for rollout in rollouts:
            kl = kl_estimate(rollout.log_probs, rollout.reference_log_probs, options.kl_estimator)
            rewards = token_rewards(rollout.scores, kl, rollout.response_mask, options.kl_coef)
            targets.append(
                generalized_advantages(
                    rewards, rollout.values, rollout.response_mask, options.discount, options.gae_lambda
                )
            )
        moments = self._global_moments(
            [masked_moments(a, r.response_mask) for (a, _), r in zip(targets, rollouts, strict=True)]
        )
        return [(whiten(a, r.response_mask, moments), g) for (a, g), r in zip(targets, rollouts, strict=True)]

    def _global_moments(self, moments: list[Moments]) -> Moments:
        local = torch.stack([torch.stack([part.cpu() for part in moment]) for moment in moments]).sum(dim=0)
        return Moments(*self._sum_over_processes(local))

    def _update(self, minibatch: list[tuple[Rollout, tuple[Tensor, Tensor]]]) -> dict[str, float]:
        """One optimizer step on one minibatch; losses are means over its tokens on all processes."""
        local = torch.tensor(float(sum(int(rollout.response_mask.sum()) for rollout, _ in minibatch)))
        tokens = float(self._sum_over_processes(local))
        totals = torch.zeros(4)
        with self._no_sync():
            for rollout, (advantages, returns) in minibatch:
                totals[:3] += self._backward_part(rollout, advantages, returns, tokens)
            if self.pretraining.ptx_coef:
                totals[3] = self._backward_pretraining()
        self._step()
        totals = self._sum_over_processes(totals)
        names = ["loss/policy", "loss/value", "ppo/clip_share"] + (
            ["loss/pretraining"] if self.pretraining.ptx_coef else []
        )
        return dict(zip(names, totals.tolist(), strict=False))

    def _backward_part(self, rollout: Rollout, advantages: Tensor, returns: Tensor, tokens: float) -> Tensor:
        """Adds a micro-batch's gradients: backward for one role before the next role's adapter becomes active."""
        roles, options = self.roles, self.options
        mask, response = rollout.response_mask, rollout.input_ids[:, -rollout.response_mask.shape[1] :]
        hidden = roles.hidden("policy", rollout.input_ids, rollout.attention_mask, rollout.trunk)
        log_probs, _ = roles.response_log_probs("policy", hidden, response, mask, self.sampling.temperature)
        policy_loss, clipped = clipped_policy_loss(log_probs, rollout.log_probs, advantages, mask, options.clip_range)
        (policy_loss / tokens).backward()
        hidden = roles.hidden("value", rollout.input_ids, rollout.attention_mask, rollout.trunk)
        value_loss = clipped_value_loss(
            roles.values(hidden, mask), rollout.values, returns, mask, options.value_clip_range
        )
        (value_loss / tokens).backward()
        return torch.stack([policy_loss.detach(), value_loss.detach(), clipped.float()]).cpu() / tokens

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
        for part in blocks.split(self.options.micro_batch_size):
            hidden = self.roles.hidden("policy", part, torch.ones_like(part, dtype=torch.bool))
            log_probs = token_log_probs(
                hidden[:, :-1].flatten(0, 1), self.roles.output_weight("policy"), part[:, 1:].flatten()
            ).log_probs
            loss = -log_probs.sum() / mean_over
            (options.ptx_coef * loss).backward()
            total += float(loss)
        return total

    @property
    def steps_in_iteration(self) -> int:
        """Optimizer steps taken since the iteration began."""
        per_iteration = self.options.inner_epochs * self.options.minibatches
        return self.global_step - self.iterations_done * per_iteration

    def _step(self) -> None:
        optimizer = self.optimizers()
        for group in optimizer.param_groups:
            self._reduce_gradients(group["params"])
            torch.nn.utils.clip_grad_norm_(group["params"], self.optimizer_options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    def _reduce_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Sums gradients over processes in one message; a process without rows in a minibatch adds zeros."""
        if self.trainer.world_size == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.trainer.strategy.reduce(flat, reduce_op="sum")
        for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter)

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return values
        return self.trainer.strategy.reduce(values.to(self.device).clone(), reduce_op="sum").cpu()

    @contextmanager
    def _no_sync(self) -> Iterator[None]:
        """Keeps DDP from averaging gradients: they are summed once, after the last micro-batch."""
        wrapped = self.trainer.strategy.model
        with wrapped.no_sync() if hasattr(wrapped, "no_sync") else _nothing():
            yield

    def _rollout_metrics(
        self,
        rollouts: list[Rollout],
        targets: list[tuple[Tensor, Tensor]],
        responses: list[list[int]],
        entropy: Tensor,
    ) -> dict[str, float]:
        """Means over the episodes of all processes; rewards are the reward model's, before KL and penalties."""
        kl = torch.cat([(r.log_probs - r.reference_log_probs).sum(dim=1).cpu() for r in rollouts])
        ended = sum(response[-1] in self.prompter.stop_ids for response in responses)
        sums = torch.tensor(
            [
                float(sum(r.raw_scores.sum() for r in rollouts)),
                float(kl.sum()),
                float(sum(len(response) for response in responses)),
                float(ended),
                float(entropy.sum()),
                float(len(responses)),
            ],
            dtype=torch.float64,
        )
        *totals, count = self._sum_over_processes(sums).tolist()
        names = ["ppo/reward", "ppo/kl", "ppo/response_length", "ppo/eos_share", "ppo/entropy"]
        metrics = {name: total / count for name, total in zip(names, totals, strict=True)}
        flat = [
            torch.cat([part[rollout.response_mask].cpu() for part, rollout in zip(parts, rollouts, strict=True)])
            for parts in ([r.values for r in rollouts], [returns for _, returns in targets])
        ]
        metrics["ppo/explained_variance"] = float(explained_variance(*flat))
        metrics["ppo/learning_rate"] = self.lr_schedulers().get_last_lr()[0]
        return metrics


@contextmanager
def _nothing() -> Iterator[None]:
    yield
