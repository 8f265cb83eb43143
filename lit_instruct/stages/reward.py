"""Step 2: a reward model from ranked comparisons (section 3.5, eq. 1, C.2)."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import BinaryCalibrationError

from data_modules.ranked_comparison import RankedComparisonDataModule
from lit_instruct.batches import RankedBatch, per_step
from lit_instruct.errors import UserError
from lit_instruct.fast.packing import Sharing
from lit_instruct.handover import Stage
from lit_instruct.models.activations import MemoryOptions
from lit_instruct.models.assemble import reward_network
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.finite import non_finite
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.quantised import Quantize
from lit_instruct.models.rewards import RewardForward
from lit_instruct.stages.base import StageModule
from lit_instruct.stages.context import check_context
from lit_instruct.stages.non_finite import StepGuard, refuse
from lit_instruct.stages.options import OptimizerOptions, PromptOptions
from lit_instruct.trl_bridge import RankedRewardTrainer, RewardLossOptions

log = logging.getLogger(__name__)
CALIBRATION_BINS = 20
"""Number of bins of the predicted probability, from 0 to 1."""


class RewardModule(StageModule):
    """Trains a scalar reward on all pairs of the K ranked responses to a prompt.

    Args:
        base: model to start from, by default the SFT stage of the same run; any language model will do.
        lora: adapter options; null trains every weight.
        optimizer: learning rate and schedule; the paper's 9e-6 is for full fine-tuning.
        trl: terms that TRL's RewardTrainer adds to the loss.
        prompt: prompt format; that of the SFT stage if `base` is one.
        shared_prompt: whether a prompt is encoded once for all its responses: "auto" if that is cheaper (long prompts,
            many responses) and the model supports it, "on" always, "off" never.
        max_tokens: most tokens, padding included, whose activations are kept at one time. A larger batch is split
            between prompts, at no cost; a single prompt that is larger is computed twice.
        dtype: dtype of frozen weights; auto is bfloat16 on GPUs that compute in it, on a CPU if it is fast.
        quantize: quantisation of the frozen base, but not of the head: none, 8bit (LLM.int8) or 4bit (NF4, double
            quantisation).
        memory: how device memory is saved.
        seed: seed of all random numbers.
    """

    trl: RankedRewardTrainer
    stage = "rm"
    data_type = RankedComparisonDataModule

    def __init__(
        self,
        base: str = "{run}/sft",
        lora: LoraOptions | None = LoraOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        trl: RewardLossOptions = RewardLossOptions(),
        prompt: PromptOptions | None = None,
        shared_prompt: Sharing = "auto",
        max_tokens: int = 8192,
        dtype: DtypeName = "auto",
        quantize: Quantize = "none",
        memory: MemoryOptions = MemoryOptions(),
        seed: int = 0,
    ) -> None:
        super().__init__(base, lora, dtype, prompt, seed, quantize, memory)
        if max_tokens < 1:
            raise UserError(f"--model.max_tokens={max_tokens}: must be at least 1")
        self.shared_prompt: Sharing = shared_prompt
        self.max_tokens = max_tokens
        self.optimizer_options = optimizer
        self.step_guard = StepGuard(optimizer.on_non_finite)
        self.trl_options = trl
        self.parents = {"sft": self.source_name}
        self.register_buffer("bias", torch.zeros(()))
        self.calibration = BinaryCalibrationError(n_bins=CALIBRATION_BINS)

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that chooses the best checkpoint, and its direction."""
        return "val/loss", "min"

    def setup(self, stage: str) -> None:
        """Builds the model, and TRL's trainer around it."""
        super().setup(stage)
        check_context(self.source, self.data)
        if hasattr(self, "trl"):
            return
        self.build()
        self.reward_forward = RewardForward(self.network, self.shared_prompt, self.max_tokens, self.data.longest)
        self.trl = RankedRewardTrainer(self.reward_forward, self.prompter.tokenizer, self.trl_options, self.seed)
        self.keep_less_memory(self.network)

    def build(self) -> None:
        """Builds the model, unless it was loaded."""
        if not hasattr(self, "network"):
            torch.manual_seed(self.seed)  # the head starts from random weights
            pad_id, quantised = self.prompter.pad_id, self.quantised()
            self.network = reward_network(self.source, self.lora, self.frozen_dtype, pad_id, quantised)

    def on_train_epoch_start(self) -> None:
        """Counts the prompts of every optimizer step of the epoch."""
        self.network.train()
        batches = self.data.train_sampler.batches(self.trainer.current_epoch)
        self.step_prompts = per_step(batches, [1] * len(self.data.train_dataset), self.trainer.accumulate_grad_batches)

    on_train_start = on_train_epoch_start  # Lightning skips the latter when it resumes within an epoch

    def training_step(self, batch: RankedBatch, batch_idx: int) -> Tensor:
        """Returns the mean loss over the prompts of the whole optimizer step.

        Only the loss of the last group of prompts is returned with its graph: the others have had their backward pass.
        """
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self.optimizers().zero_grad()
        groups = self.reward_forward.split(batch)
        total, correct, pairs = torch.zeros(3, device=self.device)
        for number, group in enumerate(groups, start=1):
            with self.offloading:
                loss, ranking = self.trl.compute_loss(self.network, group, True, self.step_prompts[batch_idx])
            # DDP and FSDP2 average over processes; the loss is divided by the prompts of all of them.
            loss = loss * self.trainer.world_size
            total, correct, pairs = total + loss.detach(), correct + ranking.correct, pairs + ranking.pairs
            if number < len(groups):
                # DDP does not communicate yet: that begins with the backward pass that follows this method.
                self.trainer.strategy.backward(loss, None)
        accumulate = self.trainer.accumulate_grad_batches  # Lightning divides the loss by it
        self.step_guard.add(total, batch._asdict())
        self.log("train/loss", total * accumulate, prog_bar=True, sync_dist=True)
        self.log("train/pair_accuracy", (correct / pairs).nan_to_num(), sync_dist=True)
        self.log("train/learning_rate", self.lr_schedulers().get_last_lr()[0])
        return loss * accumulate

    def optimizer_zero_grad(self, *_: Any) -> None:
        """Does nothing: Lightning calls it after `training_step`, which has already added gradients of this step."""

    def on_validation_epoch_start(self) -> None:
        """Turns dropout off and resets the counts."""
        self.network.eval()
        self.row_sizes = [len(ranks) for ranks in self.data.validation_dataset["ranks"]]
        rows = len(self.row_sizes)
        self.counted = torch.zeros(4, device=self.device, dtype=torch.float64)
        # One entry per row of the data: each process fills in the rows that it measures, and their sum has all rows.
        self.measured = torch.zeros(rows, device=self.device, dtype=torch.bool)
        self.row_rewards = torch.zeros(rows, max(self.row_sizes), device=self.device, dtype=torch.float64)

    def validation_step(self, batch: RankedBatch, batch_idx: int) -> None:
        """Adds loss and correctly ordered pairs to the counts, and keeps the rewards."""
        _, ranking = self.trl.compute_loss(self.network, batch, return_outputs=True)
        counts = (ranking.loss, ranking.prompts, ranking.correct, ranking.pairs)
        self.counted += torch.stack([part.double() for part in counts])
        place = torch.arange(len(batch.ranks))
        place -= torch.searchsorted(batch.prompt_index, batch.prompt_index)  # from the prompt's first response
        self.measured[batch.row_number] = True
        self.row_rewards[batch.row_number[batch.prompt_index], place] = ranking.rewards.double()
        probability = ranking.margins.sigmoid()
        happened = torch.ones_like(probability, dtype=torch.long)
        self.calibration.update(torch.cat([probability, 1 - probability]), torch.cat([happened, 1 - happened]))

    def on_validation_epoch_end(self) -> None:
        """Logs loss, pair accuracy and calibration over every prompt and pair of all processes."""
        total = self.trainer.strategy.reduce
        loss, prompts, correct, pairs = total(self.counted, reduce_op="sum")
        self.measured = total(self.measured.long(), reduce_op="sum").bool()
        self.row_rewards = total(self.row_rewards, reduce_op="sum")
        self.log("val/loss", (loss / prompts).float(), prog_bar=True)
        self.log("val/pair_accuracy", (correct / pairs).float(), prog_bar=True)
        self.log("val/calibration_error", self.calibration.compute())
        self.calibration.reset()
        self.network.train()

    def validation_rewards(self) -> dict[int, list[float]]:
        """Returns the rewards of the last validation by row number of `validation_rows`, without the bias.

        The rewards of a row are in the order of its responses.
        """
        numbers = self.measured.nonzero().flatten().tolist()
        return {number: self.row_rewards[number, : self.row_sizes[number]].tolist() for number in numbers}

    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    @torch.no_grad()
    def set_bias(self) -> None:
        """Sets the bias so that the demonstrations score 0 on average (section 3.5)."""
        scores = self.demonstration_rewards()
        if scores is None:
            log.warning("reward bias stays 0: give --data.demonstrations_path to make demonstrations score 0")
            return
        refuse(self.stage, non_finite({"the mean reward of the demonstrations": float(scores.mean())}))
        self.bias.copy_(-scores.mean())

    @torch.no_grad()
    def demonstration_rewards(self) -> Tensor | None:
        """Returns the reward of each demonstration without the bias, or None if there are no demonstrations."""
        if self.data.demonstrations_path is None:
            return None
        self.network.eval()
        return torch.cat([self.reward_forward.rewards(batch) for batch in self.data.demonstration_batches()])

    def record(self, metrics: dict[str, float]) -> Stage:
        """Returns the content of stage.json, with the bias."""
        return replace(super().record(metrics), reward_bias=float(self.bias))
