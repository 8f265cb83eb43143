"""Base of the three stages: prompt format, small checkpoints, optimizer schedule and hand-over."""

from __future__ import annotations

import inspect
import warnings
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import lightning
import numpy as np
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from data_modules.base import RowDataModule
from lit_instruct import lightning_private
from lit_instruct.errors import UserError
from lit_instruct.fast.host_memory import spare_host_memory
from lit_instruct.fast.packed import unpack_layers
from lit_instruct.handover import Stage, prompter_of, read_stage_of, stage_or_model
from lit_instruct.models.activations import MemoryOptions, checkpoint_layers
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.loading import Source, find_source, model_name
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.packed_weights import keep_output_plain
from lit_instruct.models.quantised import Quantisation, Quantize
from lit_instruct.models.sharding import is_sharded, load_whole_weights, shard, whole_weights
from lit_instruct.prompting import Prompter
from lit_instruct.stages.bits import check_trainer, device_without_trainer, quantised
from lit_instruct.stages.checkpoint import read_checkpoint
from lit_instruct.stages.frozen_dtype import FrozenDtype
from lit_instruct.stages.given import constructor_arguments, options_record
from lit_instruct.stages.non_finite import StepGuard
from lit_instruct.stages.options import PromptOptions, configured
from lit_instruct.stages.record import stage_record
from lit_instruct.stages.resume import Resume, check_before_loading, options_of
from lit_instruct.stages.saving import load_checkpoint, load_stage, save_stage, write_model
from lit_instruct.stages.user_data import take_data
from lit_instruct.trl_bridge import activation_offloading

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class StageModule(lightning.LightningModule):
    """Base of the three stages: a module whose checkpoints are small and resume a run as if it had never stopped.

    Args:
        source: model that the stage starts from.
        lora: adapter options; None trains every weight.
        dtype: of frozen weights.
        prompt: prompt format; None takes that of `source`.
        seed: of all random numbers of the stage.
        quantize: of frozen bases.
        memory: how device memory is saved.
    """

    stage: Literal["sft", "rm", "ppo"]
    step_guard: StepGuard
    """Checks the optimizer steps that Lightning takes; PPO, which takes its own, has another guard."""
    optimizer_options: Any
    """Has the `name` of an optimizer; an `OptimizerOptions` unless `configure_optimizers` is overridden."""
    patience: int | None = None
    """The training ends after this many validations in a row without an improvement of the monitored metric."""
    offloading: AbstractContextManager[Any]
    """Context of the forward passes of the training."""
    network: nn.Module
    """The network of a stage that has one."""
    adapter = "default"
    """Name of the adapter that is handed over."""
    whole_weights: dict[str, Tensor] | None = None
    """Weights of a sharded network, once `gather_weights` has gathered them."""
    data_type: type[RowDataModule[Any]]
    """The stage's DataModule."""
    data: Any = None
    """Of the Trainer's present task, once it has called `setup`; a `data_type`."""
    only_measured = False
    """Whether the last training step changed neither weights nor counters, and ended the training."""
    loaded: Stage | None = None
    """Record of a result that was loaded and not trained since."""
    loaded_prompts: np.ndarray | None = None
    """Hashes of the prompts that it was trained on."""
    made_with: dict[str, Any] | None = None
    """Options that loaded weights were trained with, as stage.json has them; None for those of this run."""

    def __init__(
        self,
        source: str,
        lora: LoraOptions | None,
        dtype: DtypeName,
        prompt: PromptOptions | None,
        seed: int,
        quantize: Quantize = "none",
        memory: MemoryOptions = MemoryOptions(),
    ) -> None:
        super().__init__()
        self.strict_loading = False  # the frozen base comes from its own folder
        self.resume = Resume()
        self.source_name = model_name(source, "--model.base")
        self.lora = lora
        self.dtype_choice = FrozenDtype(dtype)
        self.prompt_options = prompt
        self.seed = seed
        self.quantize: Quantize = quantize
        self.memory = memory
        self.parents: dict[str, str] = {}
        self.fault: UserError | None = None
        """Error that ends the training after the current step, with a checkpoint."""
        self.given = constructor_arguments(inspect.currentframe())

    @cached_property
    def source(self) -> Source:
        """The model that the stage starts from."""
        if self.stage == "sft":
            return find_source(self.source_name)
        return stage_or_model(self.source_name, "sft", self.stage)

    @cached_property
    def prompter(self) -> Prompter:
        """The prompt format of the stage, which its DataModule uses as well."""
        options = self.prompt_options
        if options is None or read_stage_of(self.source) is not None:
            return prompter_of(self.source)
        return prompter_of(self.source, options.template, options.system)

    @property
    def frozen_dtype(self) -> torch.dtype:
        """The dtype of frozen weights on the device that the trainer chose."""
        if lightning_private.trainer_of(self) is None:
            return self.dtype_choice.choose(self.source, device_without_trainer()).dtype
        return self.dtype_choice.agree(self.source, self.trainer.strategy).dtype

    def quantised(self) -> Quantisation | None:
        """How frozen bases are quantised, None if they are not; called before anything is loaded.

        Raises:
            UserError: the Trainer's precision, device or strategy does not support it, or not in this stage.
        """
        return quantised(self)

    def setup(self, stage: str) -> None:
        """Checks the Trainer and takes the data of its task, whose loaders shard their rows over the processes."""
        check_trainer(self)
        self.data = take_data(self, self.data_type)
        self.distributed_sampler = lightning_private.set_distributed_sampler(self.trainer, False)

    def teardown(self, stage: str) -> None:
        """Leaves the Trainer as it was."""
        if (before := getattr(self, "distributed_sampler", None)) is not None:
            lightning_private.set_distributed_sampler(self.trainer, before)

    def configure_model(self) -> None:
        """Shards the weights over the processes if the strategy is FSDP2."""
        if (mesh := self.mesh()) is not None and not is_sharded(self):
            self.shard_networks(mesh)
            check_before_loading(self.trainer.strategy)

    def mesh(self) -> DeviceMesh | None:
        """Returns the mesh that the weights are sharded over, None if the strategy is not FSDP2."""
        strategy = self.trainer.strategy
        return strategy.device_mesh["data_parallel"] if isinstance(strategy, ModelParallelStrategy) else None

    def shard_networks(self, mesh: DeviceMesh) -> None:
        """Shards every network of the stage."""
        shard(self.network, mesh, self.frozen_dtype)

    def keep_less_memory(self, network: nn.Module) -> None:
        """Applies the `memory` options to a network that is ready to be trained."""
        if self.memory.gradient_checkpointing:
            checkpoint_layers(network)
        if not self.memory.pack_output:
            keep_output_plain(network)
        self.offloading = activation_offloading(network, self.memory.activation_offloading)

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, without interruptions."""
        return self.resume.seconds

    def ending(self) -> str | None:
        """Returns how the training ended, in a sentence, if its length was not all that could end it."""
        return None

    def metrics_so_far(self) -> dict[str, float]:
        """Returns the latest value of every metric, including those from before a resume."""
        return self.resume.metrics(self.trainer) if lightning_private.trainer_of(self) is not None else {}

    def on_fit_start(self) -> None:
        """Starts the clock."""
        # Networks are in evaluation mode until the first batch, in PPO throughout.
        warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # no validation rows
        spare_host_memory(self.device)
        self.loaded = self.made_with = None
        self.resume.start(self.trainer)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seeds dropout and noise by seed, batch and process, so that resuming needs no random state."""
        if self.fault is not None:  # no callback has ended the training
            raise self.fault
        self.resume.correct(self.trainer)
        number = (self.seed * 1_000_003 + self.trainer.current_epoch) * 1_000_003 + batch_idx
        torch.manual_seed((number * self.trainer.world_size + self.trainer.global_rank) % 2**63)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leaves out a step with NaN or inf, and ends the training if `on_non_finite` is "stop"."""
        if self.automatic_optimization:
            self.fault = self.step_guard.check(self.trainer, optimizer)

    def on_train_end(self) -> None:
        """Unpacks frozen layers; raises the fault if no callback has ended the training with it."""
        unpack_layers(self)
        if self.fault is not None:
            raise self.fault

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps only what is trained, and adds what a resumed run needs."""
        checkpoint["made_with"] = self.options_record()
        self.resume.save(checkpoint, self, self.options_given())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what a resumed run needs.

        Raises:
            UserError: the checkpoint is of another stage or model, or an option has changed that must not.
        """
        self.resume.load(checkpoint, self, self.options_given())

    def options_given(self) -> dict[str, Any]:
        """Returns every option of the run by dotted name; a stage that it starts from by its time of creation."""
        return options_of(self.given, self.trainer, self.data, {"base": self.source})

    def load_trained_weights(self, path: str) -> dict[str, float]:
        """Loads the trained tensors of one of this run's checkpoints; returns the metrics saved with it."""
        saved = self.load_from(path)
        if is_sharded(self):
            load_whole_weights(self, saved["state_dict"])
        else:
            self.load_state_dict(saved["state_dict"], strict=False)
        self.made_with = saved.get("made_with")  # 0.1.0 did not save it
        return saved["metrics"]

    def load_from(self, path: str) -> dict[str, Any]:
        """Returns one of this run's checkpoints, on the device unless the weights are sharded."""
        return read_checkpoint(path, "cpu" if is_sharded(self) else self.device, mmap=is_sharded(self))

    def configure_optimizers(self) -> dict[str, Any]:
        """Returns the optimizer of all trained weights, with a cosine schedule."""
        return configured(self)

    def result(self) -> Any:
        """Returns the network that is handed over."""
        return self.network

    def gather_weights(self) -> None:
        """Gathers sharded weights for `save`; every process has to call it."""
        self.whole_weights = whole_weights(self.result())

    def save_model(self, folder: Path) -> None:
        """Writes the adapter with its head, or the whole model, into an existing folder."""
        write_model(self, folder)

    def save(self, folder: str | Path, metrics: dict[str, float] | None = None) -> None:
        """Writes the result as a run hands it over: for `load`, other stages, sample, eval, export, PEFT.

        Args:
            folder: such as runs/demo/sft; every process calls this.
            metrics: final figures; None takes the latest of the training.
        """
        save_stage(self, Path(folder).expanduser(), self.metrics_so_far() if metrics is None else metrics)

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Self:
        """Returns a module with a stage's result, ready to be used, validated, trained further or saved.

        Args:
            folder: with stage.json.
            options: arguments of the class that replace the recorded ones.
        """
        return cast(Self, load_stage(cls, folder, options))

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **options: Any) -> Self:
        """Returns a module with the weights of a checkpoint; `options` replace the recorded arguments of the class."""
        ignored = ("map_location", "hparams_file", "strict", "weights_only")
        given = {name: value for name, value in options.items() if name not in ignored}
        return cast(Self, load_checkpoint(cls, checkpoint_path, given))

    def record(self, metrics: dict[str, float]) -> Stage:
        """Returns the content of stage.json."""
        return stage_record(self, metrics)

    def options_record(self) -> dict[str, Any]:
        """Returns the options of the run that made the weights."""
        return options_record(self.given, self.data, lightning_private.trainer_of(self), self.made_with)
