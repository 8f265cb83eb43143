"""What the three stages share: prompt format, small checkpoints, optimizer schedule and the hand-over."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from torch import nn

from lit_instruct.errors import UserError
from lit_instruct.handover import (
    Stage,
    find_parent,
    peak_memory_gb,
    prompter_of,
    read_stage_of,
    replacing_files,
    write_stage,
)
from lit_instruct.models.loading import DtypeName, Source, find_source, pick_dtype
from lit_instruct.models.lora import LoraOptions
from lit_instruct.prompting import Prompter, Template


@dataclass
class OptimizerOptions:
    """AdamW with the paper's schedule for SFT and reward model: cosine to a tenth (C.1, C.2).

    Args:
        learning_rate: the highest.
        final_share: what is left of it at the end of the cosine; 1 keeps it constant.
        warmup_steps: optimizer steps over which it rises from 0 (none in the paper).
        weight_decay: of AdamW.
        beta2: of AdamW; beta1 is 0.9.
    """

    learning_rate: float = 1e-4
    final_share: float = 0.1
    warmup_steps: int = 0
    weight_decay: float = 0.0
    beta2: float = 0.95

    def __post_init__(self) -> None:
        """Refuses values that cannot train."""
        if self.learning_rate <= 0:
            raise UserError(f"--model.optimizer.learning_rate={self.learning_rate}: must be above 0")
        if not 0 <= self.final_share <= 1:
            raise UserError(f"--model.optimizer.final_share={self.final_share}: must be between 0 and 1")

    def share(self, step: int, total: int) -> float:
        """Returns the learning rate at a step as a share of the highest."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = min(1.0, (step - self.warmup_steps) / max(1, total - self.warmup_steps))
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class PromptOptions:
    """How prompts become token ids.

    Args:
        template: "chat" uses the tokenizer's chat template, "raw" the text as it is, "auto" chat where there is one.
        system: system prompt for prompts without one.
    """

    template: Template = "auto"
    system: str | None = None


class StageModule(lightning.LightningModule):
    """Base of the three stages.

    Args:
        stage: sft, rm or ppo.
        source: model that the stage starts from.
        lora: adapter options; None trains every weight.
        dtype: of frozen weights.
        prompt: prompt format; None takes that of `source`.
        seed: of everything random in the stage.
    """

    def __init__(
        self,
        stage: Literal["sft", "rm", "ppo"],
        source: str,
        lora: LoraOptions | None,
        dtype: DtypeName,
        prompt: PromptOptions | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.stage = stage
        self.source_name = source
        self.lora = lora
        self.dtype_name: DtypeName = dtype
        self.prompt_options = prompt
        self.seed = seed
        self.strict_loading = False  # checkpoints hold what is trained; the frozen base comes from its own folder
        self.seconds_before = 0.0
        self.logged_steps = 0
        self.started: float | None = None
        self.parents: dict[str, str] = {}

    @cached_property
    def source(self) -> Source:
        """Where the starting model lies."""
        if self.stage != "sft" and Path(self.source_name).name == "sft":
            return find_parent(self.source_name, "sft", self.stage)
        return find_source(self.source_name)

    @cached_property
    def prompter(self) -> Prompter:
        """The prompt format of the stage, which its DataModule uses as well."""
        inherited = prompter_of(self.source)
        if self.prompt_options is None or read_stage_of(self.source) is not None:
            return inherited
        return Prompter(inherited.tokenizer, self.prompt_options.template, self.prompt_options.system)

    @property
    def frozen_dtype(self) -> torch.dtype:
        """The dtype of frozen weights on the device that the trainer chose."""
        return pick_dtype(self.dtype_name, self.trainer.strategy.root_device)

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, over all its sittings."""
        return self.seconds_before + (time.monotonic() - self.started if self.started is not None else 0.0)

    def on_fit_start(self) -> None:
        """Starts the clock."""
        self.started = time.monotonic()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes dropout and noise a function of seed, batch and process, so that resuming needs no random state."""
        number = (self.seed * 1_000_003 + self.trainer.current_epoch) * 1_000_003 + batch_idx
        torch.manual_seed((number * self.trainer.world_size + self.trainer.global_rank) % 2**63)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only what is trained, and the clock."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        buffers = {name for name, _ in self.named_buffers(recurse=False)}
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in weights if name in trained | buffers}
        checkpoint["seconds"] = self.seconds
        # Lightning counts a step only after the validation that follows it.
        checkpoint["logged_steps"] = self.trainer.fit_loop.epoch_loop._batches_that_stepped + self.trainer.validating
        checkpoint["metrics"] = {name: float(value) for name, value in self.trainer.callback_metrics.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the clock, and refuses a checkpoint of a differently shaped adapter."""
        self.seconds_before, self.logged_steps = checkpoint["seconds"], checkpoint["logged_steps"]
        own = {name: parameter.shape for name, parameter in self.named_parameters() if parameter.requires_grad}
        saved = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        wrong = [name for name, shape in own.items() if saved.get(name) != shape]
        if wrong:
            raise UserError(
                f"--ckpt_path: the checkpoint does not fit this model ({wrong[0]}: {saved.get(wrong[0])} there, "
                f"{own[wrong[0]]} here); resume with the same --model options"
            )

    def load_trained_weights(self, path: str) -> dict[str, float]:
        """Takes the trained tensors of one of this run's checkpoints; returns the metrics of its moment."""
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.load_state_dict(saved["state_dict"], strict=False)
        return saved["metrics"]

    def cosine_schedule(self, parameters: list[nn.Parameter], options: OptimizerOptions) -> dict[str, Any]:
        """Returns AdamW and its schedule as Lightning wants them."""
        optimizer = torch.optim.AdamW(
            parameters, options.learning_rate, betas=(0.9, options.beta2), weight_decay=options.weight_decay
        )
        # Asked for at step 0, the total would set the loader up before a checkpoint can restore its position.
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: options.share(step, int(self.trainer.estimated_stepping_batches) if step else 1)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def save_model(self, folder: Path) -> None:
        """Writes the stage's model, in its ecosystem's form, into an existing folder."""
        raise NotImplementedError

    def hand_over(self, folder: Path, metrics: dict[str, float]) -> None:
        """Writes model, tokenizer and stage.json; an earlier result stays whole until all of it is written.

        Args:
            folder: such as runs/demo/sft.
            metrics: final figures.

        Raises:
            UserError: it cannot be written.
        """
        with replacing_files(folder) as scratch:
            self.save_model(scratch)
            self.prompter.tokenizer.save_pretrained(str(scratch))
            write_stage(scratch, self.record(metrics))

    def record(self, metrics: dict[str, float]) -> Stage:
        """Returns what stage.json says."""
        parent = read_stage_of(self.source)
        base = parent.base if parent is not None else {"source": self.source_name, "revision": self.revision()}
        return Stage(
            stage=self.stage,
            base=base,
            parents=self.parents,
            prompt_format=self.prompter.describe(),
            metrics=metrics,
            seed=self.seed,
            seconds=round(self.seconds, 2),
            peak_memory_gb=peak_memory_gb(),
            data=self._data_report(),
        )

    def _data_report(self) -> dict[str, Any] | None:
        """What became of the rows of the data; None where a DataModule of another kind served them."""
        report = getattr(getattr(self._trainer, "datamodule", None), "report", None)
        return asdict(report) if is_dataclass(report) and not isinstance(report, type) else None

    def revision(self) -> str | None:
        """Returns the hub commit of the base, where it has one."""
        raise NotImplementedError
