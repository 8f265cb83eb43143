"""NaN and inf in SFT and reward model: a step is skipped or ends the training; nothing broken is handed over."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_instruct.errors import UserError
from lit_instruct.files import json_text, replacing_files
from lit_instruct.models.finite import OnNonFinite, gradient_norm, non_finite, non_finite_weights

log = logging.getLogger(__name__)


@dataclass
class StepGuard:
    """Checks loss and gradients of every optimizer step."""

    action: OnNonFinite
    loss: Tensor | None = None
    """Sum over the micro-batches of the step so far."""
    batches: list[Mapping[str, Any]] = field(default_factory=list)
    """Micro-batches of the step so far."""
    saved: Path | None = None
    """Folder with those of the first step that had NaN or inf."""

    def add(self, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Adds the loss of a micro-batch, and its tensors by name, with token ids as input_ids."""
        self.batches.append(batch)
        self.loss = loss.detach() if self.loss is None else self.loss + loss.detach()

    def check(self, trainer: lightning.Trainer, optimizer: Optimizer) -> UserError | None:
        """Removes the gradients of a step that has NaN or inf on any process; returns the error if `action` is "stop".

        A step without gradients changes no weight, but is counted. The norm of the gradients, before they are clipped,
        is logged as train/grad_norm.
        """
        figures, norm = {}, gradient_norm(optimizer)
        batches, self.batches = self.batches, []
        if self.loss is not None:
            figures["train/loss"] = float(trainer.strategy.reduce(self.loss, reduce_op="sum"))
            self.loss = None
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if norm is not None and not scaled:  # a scaler skips steps and lowers its scale by itself
            figures["the gradient"] = norm
        wrong = non_finite(figures)
        if not wrong:
            if norm is not None and math.isfinite(norm):
                trainer.lightning_module.log("train/grad_norm", norm)
            return None
        optimizer.zero_grad()
        what = f"step {trainer.global_step + 1}: {', '.join(wrong)}"
        if self.saved is None:  # the first fault explains the others
            self.saved = _save(trainer, batches, wrong)
            what += f"; its rows are in {self.saved}"
        if self.action == "skip":
            log.warning("%s; the step is skipped", what)
            return None
        return UserError(
            f"{what}; the step was not taken; lower --model.optimizer.learning_rate, or skip such steps with "
            "--model.optimizer.on_non_finite=skip"
        )


def _save(trainer: lightning.Trainer, batches: Sequence[Mapping[str, Any]], wrong: list[str]) -> Path:
    """Writes batch.safetensors, with tensors called <name>.<micro-batch>, and batch.json, with their texts."""
    process = f"-process-{trainer.global_rank}" if trainer.world_size > 1 else ""
    folder = Path(trainer.default_root_dir) / "non_finite" / f"step-{trainer.global_step + 1}{process}"
    tensors = {
        f"{name}.{number}": value.detach().cpu().contiguous()
        for number, batch in enumerate(batches)
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }
    tokenizer = trainer.lightning_module.prompter.tokenizer
    texts = [tokenizer.decode(ids) for batch in batches for ids in batch["input_ids"].tolist()]
    with replacing_files(folder) as scratch:
        save_file(tensors, scratch / "batch.safetensors")
        record = {"step": trainer.global_step + 1, "wrong": wrong, "rows": texts}
        (scratch / "batch.json").write_text(json_text(record), encoding="utf-8", errors="replace")
    return folder


def check_figures(stage: str, metrics: Mapping[str, float], monitor: str | None) -> None:
    """Raises a UserError if the validation loss or the metric that chooses the checkpoint is NaN or inf."""
    deciding = {"val/loss", monitor or "val/loss"} & metrics.keys()
    refuse(stage, non_finite({name: metrics[name] for name in sorted(deciding)}))


def check_trained(stage: str, network: nn.Module, whole: Mapping[str, Tensor] | None) -> None:
    """Raises a UserError if trained tensors have NaN or inf; `whole` are the weights of a sharded network."""
    trained = whole or {name: value for name, value in network.named_parameters() if value.requires_grad}
    broken = non_finite_weights(trained.items())
    what = f"{len(broken)} of {len(trained)} trained tensors have NaN or inf, such as {broken[0]}" if broken else ""
    refuse(stage, [what] if broken else [])


def refuse(stage: str, wrong: list[str]) -> None:
    """Raises a UserError before a hand-over if something is wrong."""
    if wrong:
        raise UserError(
            f"{stage}: {', '.join(wrong)}; nothing is handed over, and an earlier result is untouched; train again "
            "with a lower --model.optimizer.learning_rate"
        )
