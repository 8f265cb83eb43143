"""Step 2: a reward model from ranked comparisons (section 3.5, eq. 1, C.2)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor

from lit_instruct.batches import RankedBatch
from lit_instruct.handover import Stage
from lit_instruct.losses.ranking import Ranking
from lit_instruct.models.assemble import reward_network
from lit_instruct.models.loading import DtypeName
from lit_instruct.models.lora import LoraOptions, save_adapter
from lit_instruct.stages.base import OptimizerOptions, PromptOptions, StageModule
from lit_instruct.stages.sft import tokens_per_step
from lit_instruct.trl_bridge import Prepared, RewardLossOptions, prepare_reward, ranking_of, rewards_of

if TYPE_CHECKING:
    from data_modules.ranked_comparison import RankedComparisonDataModule

log = logging.getLogger(__name__)


class RewardModule(StageModule):
    """Trains a scalar reward on all pairs of the K ranked responses to a prompt.

    Args:
        base: model to start from, by default the SFT stage of the same run; any language model will do.
        lora: adapter options; null trains every weight.
        optimizer: learning rate and schedule; the paper's 9e-6 is for full fine-tuning.
        trl: additions of TRL's RewardTrainer to the loss.
        prompt: prompt format; that of the SFT stage where `base` is one.
        dtype: of frozen weights; auto is bfloat16 where the device computes in it.
        seed: of everything random.
    """

    trl: Prepared

    def __init__(
        self,
        base: str = "{run}/sft",
        lora: LoraOptions | None = LoraOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        trl: RewardLossOptions = RewardLossOptions(),
        prompt: PromptOptions | None = None,
        dtype: DtypeName = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__("rm", base, lora, dtype, prompt, seed)
        self.optimizer_options = optimizer
        self.trl_options = trl
        self.parents = {"sft": base}
        self.register_buffer("bias", torch.zeros(()))

    @property
    def monitor(self) -> tuple[str, str]:
        """The metric that chooses the best checkpoint, and its direction."""
        return "val/loss", "min"

    def setup(self, stage: str) -> None:
        """Builds the model, and TRL's trainer around it."""
        if hasattr(self, "trl"):
            return
        torch.manual_seed(self.seed)  # the head starts from random weights
        self.network = reward_network(self.source, self.lora, self.frozen_dtype, self.prompter.pad_id)
        data: RankedComparisonDataModule = self.trainer.datamodule
        self.trl = prepare_reward(
            self.network, self.prompter.tokenizer, data.train_dataset, self.trl_options, self.seed
        )

    def on_train_epoch_start(self) -> None:
        """Counts the prompts of every optimizer step of the epoch."""
        self.network.train()
        data: RankedComparisonDataModule = self.trainer.datamodule
        self.step_prompts = tokens_per_step(
            data.train_sampler.batches(self.trainer.current_epoch),
            [1] * len(data.train_dataset),
            self.trainer.accumulate_grad_batches,
        )

    on_train_start = on_train_epoch_start  # Lightning leaves the latter out when it resumes inside an epoch

    def training_step(self, batch: RankedBatch, batch_idx: int) -> Tensor:
        """Returns the mean loss over the prompts of the whole optimizer step."""
        loss, ranking = ranking_of(self.trl, self.network, batch, self.step_prompts[batch_idx])
        scaled = loss * self.trainer.world_size * self.trainer.accumulate_grad_batches
        self.log("train/loss", scaled.detach(), prog_bar=True, sync_dist=True)
        self.log("train/pair_accuracy", (ranking.correct / ranking.pairs).nan_to_num(), sync_dist=True)
        self.log("train/learning_rate", self.lr_schedulers().get_last_lr()[0])
        return scaled

    def on_validation_epoch_start(self) -> None:
        """Turns dropout off and starts counting."""
        self.network.eval()
        self.counted = torch.zeros(len(Ranking._fields), device=self.device, dtype=torch.float64)

    def validation_step(self, batch: RankedBatch, batch_idx: int) -> None:
        """Counts what the comparisons say."""
        _, ranking = ranking_of(self.trl, self.network, batch, None)
        self.counted += torch.stack([part.double() for part in ranking])

    def on_validation_epoch_end(self) -> None:
        """Logs loss and pair accuracy over every prompt and pair of all processes."""
        total = Ranking(*self.trainer.strategy.reduce(self.counted, reduce_op="sum"))
        self.log("val/loss", (total.loss / total.prompts).float(), prog_bar=True)
        self.log("val/pair_accuracy", (total.correct / total.pairs).float(), prog_bar=True)
        self.network.train()

    def test_step(self, batch: RankedBatch, batch_idx: int) -> None:
        """Counts the same as validation."""
        self.validation_step(batch, batch_idx)

    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def configure_optimizers(self) -> dict[str, Any]:
        """Returns AdamW with a cosine schedule over what is trained."""
        return self.cosine_schedule([p for p in self.parameters() if p.requires_grad], self.optimizer_options)

    @torch.no_grad()
    def set_bias(self) -> None:
        """Sets the bias so that the demonstrations score 0 on average (section 3.5)."""
        data: RankedComparisonDataModule = self.trainer.datamodule
        if data.demonstrations_path is None:
            log.warning("reward bias stays 0: give --data.demonstrations_path to make demonstrations score 0")
            return
        self.network.eval()
        batches = (RankedBatch(*(part.to(self.device) for part in batch)) for batch in data.demonstration_batches())
        scores = [rewards_of(self.network, batch) for batch in batches]
        self.bias.copy_(-torch.cat(scores).mean())

    def save_model(self, folder: Path) -> None:
        """Writes adapter and head, or the whole model."""
        if isinstance(self.network, PeftModel):
            save_adapter(self.network, "default", folder)
        else:
            self.network.save_pretrained(str(folder))

    def record(self, metrics: dict[str, float]) -> Stage:
        """Returns what stage.json says, the bias included."""
        return replace(super().record(metrics), reward_bias=float(self.bias))

    def revision(self) -> str | None:
        """Returns the hub commit of the base, where it has one."""
        return getattr(self.network.config, "_commit_hash", None)
