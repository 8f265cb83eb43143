"""What trainings of `benchmarks.gpu_check` import by name: the callback that measures memory, tokens and time."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from benchmarks.training import now


class DeviceWork(Callback):
    """Measures the steps after the first: peak memory, what lies outside the allocator, tokens and seconds."""

    result: dict[str, float]

    def __init__(self) -> None:
        self.steps = self.tokens = 0
        self.outside = 0
        DeviceWork.result = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Resets the peak, so that loading does not count."""
        self.optimizer_steps = trainer.global_step
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a step once the optimizer has stepped; the clock starts when the first one ends."""
        self.tokens += self._tokens(pl_module, batch) if self.steps else 0
        if trainer.global_step == self.optimizer_steps:
            return
        self.optimizer_steps = trainer.global_step
        if not self.steps:
            self.began = now()
        self.steps += 1
        if self.steps > 1:
            self._remember()

    def _remember(self) -> None:
        timed = self.steps - 1
        DeviceWork.result = {"steps": timed, "tokens": self.tokens, "seconds_per_step": (now() - self.began) / timed}
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            self.outside = max(self.outside, total - free - torch.cuda.memory_reserved())
            DeviceWork.result |= {
                "allocated": torch.cuda.max_memory_allocated(),
                "reserved": torch.cuda.max_memory_reserved(),
                "outside": self.outside,
            }

    @staticmethod
    def _tokens(pl_module: lightning.LightningModule, batch: Any) -> int:
        """Real tokens of a batch; of PPO, prompts and the responses of full length."""
        if pl_module.stage == "ppo":
            responses = len(batch.rows) * pl_module.options.sampling.max_new_tokens
            return int(batch.prompt_mask.sum()) + responses
        mask = batch["attention_mask"] if isinstance(batch, dict) else batch.attention_mask
        return int(mask.sum())
