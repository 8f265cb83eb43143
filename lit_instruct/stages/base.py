"""What the three stages share: prompt format, small checkpoints, optimizer schedule and the hand-over."""

from __future__ import annotations

import inspect
import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

from lit_instruct.errors import UserError
from lit_instruct.handover import (
    Stage,
    bits_of,
    prompter_of,
    read_stage_of,
    replacing_stage,
    stage_or_model,
    write_stage,
)
from lit_instruct.machine import peak_memory_gb
from lit_instruct.models.activations import MemoryOptions, checkpoint_layers
from lit_instruct.models.loading import DtypeName, Source, find_source, pick_dtype
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.optimizers import OptimizerName, make_optimizer
from lit_instruct.models.quantised import Quantisation, Quantize, quantisation
from lit_instruct.models.sharding import is_sharded, load_whole_weights, shard, whole_weights
from lit_instruct.prompting import Prompter, Template
from lit_instruct.stages.bits import check_bits
from lit_instruct.stages.given import constructor_arguments, data_options, trainer_options
from lit_instruct.stages.resumable import ResumableModule
from lit_instruct.stages.resume import options_of
from lit_instruct.trl_bridge import activation_offloading

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass
class OptimizerOptions:
    """AdamW with the paper's schedule for SFT and reward model: cosine to a tenth (C.1, C.2).

    Args:
        name: adamw, adamw_8bit (its states in a quarter of the memory), paged_adamw_8bit (which CUDA moves to the host
            where memory is short) or lion_8bit (an eighth; wants a third to a tenth of AdamW's learning rate).
        learning_rate: the highest.
        final_share: what is left of it at the end of the cosine; 1 keeps it constant.
        warmup_steps: optimizer steps over which it rises from 0 (none in the paper).
        weight_decay: share of a weight that a step at learning rate 1 takes away.
        beta2: of the second moment; beta1 is 0.9.
    """

    name: OptimizerName = "adamw"
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


class StageModule(ResumableModule):
    """Base of the three stages.

    Args:
        stage: sft, rm or ppo.
        source: model that the stage starts from.
        lora: adapter options; None trains every weight.
        dtype: of frozen weights.
        prompt: prompt format; None takes that of `source`.
        seed: of everything random in the stage.
        quantize: of frozen bases.
        memory: what is done to keep less in the device's memory.
    """

    optimizer_options: Any
    """With the `name` of an optimizer."""
    patience: int | None = None
    """The training ends after so many validations in a row in which the monitored metric did not improve."""
    offloading: AbstractContextManager[Any]
    """What forward passes of the training run in."""
    network: nn.Module
    """Of a stage with one network."""
    whole_weights: dict[str, Tensor] | None = None
    """Of a network that lies in pieces, once `gather_weights` has put them together."""

    def __init__(
        self,
        stage: Literal["sft", "rm", "ppo"],
        source: str,
        lora: LoraOptions | None,
        dtype: DtypeName,
        prompt: PromptOptions | None,
        seed: int,
        quantize: Quantize = "none",
        memory: MemoryOptions = MemoryOptions(),
    ) -> None:
        super().__init__()
        self.stage = stage
        self.source_name = source
        self.lora = lora
        self.dtype_name: DtypeName = dtype
        self.prompt_options = prompt
        self.seed = seed
        self.quantize: Quantize = quantize
        self.memory = memory
        self.parents: dict[str, str] = {}
        self.fault: UserError | None = None
        """Why the training has to end with the step that it is in; it leaves a checkpoint."""
        self.given = constructor_arguments(inspect.currentframe())

    @cached_property
    def source(self) -> Source:
        """Where the starting model lies."""
        if self.stage == "sft":
            return find_source(self.source_name)
        return stage_or_model(self.source_name, "sft", self.stage)

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

    def quantised(self) -> Quantisation | None:
        """How frozen bases are quantised, None where they are not; asked for before anything is loaded.

        Raises:
            UserError: the optimizer or the bases are to have so few bits that this device or strategy cannot do it.
        """
        check_bits(self.quantize, self.optimizer_options.name, self.lora, self.trainer.strategy)
        bits_of(self.source, self.quantize)
        return quantisation(self.quantize, self.trainer.strategy.root_device, "--model.quantize")

    def configure_model(self) -> None:
        """Cuts the weights up over the processes where the strategy is FSDP2."""
        mesh = self.mesh()
        if mesh is not None and not is_sharded(self):
            self.shard_networks(mesh)

    def mesh(self) -> DeviceMesh | None:
        """Returns the processes that the weights are cut up over, None where the strategy is not FSDP2."""
        strategy = self.trainer.strategy
        return strategy.device_mesh["data_parallel"] if isinstance(strategy, ModelParallelStrategy) else None

    def shard_networks(self, mesh: DeviceMesh) -> None:
        """Cuts up every network of the stage."""
        shard(self.network, mesh, self.frozen_dtype)

    def keep_less_memory(self, network: nn.Module) -> None:
        """Does to a network that is ready to be trained what `memory` asks for."""
        if self.memory.gradient_checkpointing:
            checkpoint_layers(network)
        self.offloading = activation_offloading(network, self.memory.activation_offloading)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Makes dropout and noise a function of seed, batch and process, so that resuming needs no random state."""
        if self.fault is not None:  # where no callback has ended the training
            raise self.fault
        super().on_train_batch_start(batch, batch_idx)
        number = (self.seed * 1_000_003 + self.trainer.current_epoch) * 1_000_003 + batch_idx
        torch.manual_seed((number * self.trainer.world_size + self.trainer.global_rank) % 2**63)

    def on_train_end(self) -> None:
        """Ends a training of which no callback knew that it had to end."""
        if self.fault is not None:
            raise self.fault

    def options_given(self) -> dict[str, Any]:
        """Returns every option of the run, the models it starts from by when they were made."""
        return options_of(self.given, self.trainer, {"base": self.source})

    def load_trained_weights(self, path: str) -> dict[str, float]:
        """Takes the trained tensors of one of this run's checkpoints; returns the metrics of its moment."""
        saved = self.load_from(path)
        if is_sharded(self):
            load_whole_weights(self, saved["state_dict"])
        else:
            self.load_state_dict(saved["state_dict"], strict=False)
        return saved["metrics"]

    def load_from(self, path: str) -> dict[str, Any]:
        """Returns one of this run's checkpoints, on the device unless that holds only a piece of it."""
        in_pieces = is_sharded(self)
        return torch.load(path, map_location="cpu" if in_pieces else self.device, mmap=in_pieces, weights_only=True)

    def gather_weights(self) -> None:
        """Puts weights that lie in pieces together for `hand_over`; every process has to call it."""
        self.whole_weights = whole_weights(self.network)

    def cosine_schedule(self, parameters: list[nn.Parameter], options: OptimizerOptions) -> dict[str, Any]:
        """Returns the optimizer and its schedule as Lightning wants them."""
        optimizer = make_optimizer(options.name, parameters, options.learning_rate, options.beta2, options.weight_decay)
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
        with replacing_stage(folder) as scratch:
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
            base_precision=self.base_precision,
            data=self._data_report(),
            options={
                "model": self.given,
                "data": data_options(getattr(self._trainer, "datamodule", None)),
                "trainer": trainer_options(self._trainer),
            },
        )

    @property
    def base_precision(self) -> str:
        """What the trained weights stand on: a base in 8bit, 4bit or a dtype, or no base but themselves in float32."""
        if self.quantize != "none":
            return self.quantize
        return str(self.frozen_dtype if self.lora is not None else torch.float32).removeprefix("torch.")

    def _data_report(self) -> dict[str, Any] | None:
        """What became of the rows of the data; None where a DataModule of another kind served them."""
        report = getattr(getattr(self._trainer, "datamodule", None), "report", None)
        return asdict(report) if is_dataclass(report) and not isinstance(report, type) else None

    def revision(self) -> str | None:
        """Returns the hub commit of the base, where it has one."""
        raise NotImplementedError
