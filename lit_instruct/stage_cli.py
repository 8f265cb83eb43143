"""One LightningCLI for each stage: `lit-instruct {sft,rm,ppo} {fit,validate,test}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from data_modules import PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule
from data_modules.sampling import ResumeInsideEpoch
from lit_instruct.callbacks import (
    FinishStepOnInterrupt,
    HandOver,
    InterruptedRunError,
    ProgressBar,
    RewardReport,
    RunFiles,
    SampleTable,
    SaveConfig,
)
from lit_instruct.errors import UserError
from lit_instruct.metrics_file import MetricsFile
from lit_instruct.models.loading import pick_dtype
from lit_instruct.stages.ppo import PPOModule
from lit_instruct.stages.reward import RewardModule
from lit_instruct.stages.sft import SFTModule

STAGES = {
    "sft": (SFTModule, PromptResponseDataModule),
    "rm": (RewardModule, RankedComparisonDataModule),
    "ppo": (PPOModule, PromptDataModule),
}
RUN = "{run}"
"""Stands for the run folder in options of the model, such as --model.base={run}/sft."""


FURTHER = {"rm": "further subcommand: score, the rewards of the rows of a file (lit-instruct rm score --help)"}
"""What the parser of a stage does not know itself."""


class StageCLI(LightningCLI):
    """LightningCLI with a run folder, and what every run of a stage has."""

    stage: str

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds --run, and one seed for everything."""
        parser.add_argument(
            "--run", default="runs/demo", help="folder of the run; the stage writes into a folder in it"
        )
        for part in ("model", "data"):
            parser.link_arguments("seed_everything", f"{part}.seed", compute_fn=int)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The three that a stage has; Lightning's `predict` is `lit-instruct sample`."""
        skipped = {"model", "dataloaders", "datamodule", "train_dataloaders", "val_dataloaders"}
        return dict.fromkeys(("fit", "validate", "test"), skipped)

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return Path(self._get(self.config, "run")) / self.stage

    def before_instantiate_classes(self) -> None:
        """Fills in the run folder."""
        run = self._get(self.config, "run")
        model = self._get(self.config, "model")
        for name, value in list(model.items()):
            if isinstance(value, str) and RUN in value:
                model[name] = value.replace(RUN, run)
        self._get(self.config, "trainer").default_root_dir = str(self.folder)

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Adds the loggers and callbacks of a stage to those that the user configured."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand != "fit" and config.logger in (None, True):
            kwargs["logger"] = False  # validate and test print; the log belongs to the training
        elif config.logger is not False:
            given = config.logger if isinstance(config.logger, list) else [config.logger]
            own = [MetricsFile(self.folder / "logs")]
            own += [TensorBoardLogger(self.folder, name="logs", version="")] if config.logger in (None, True) else []
            kwargs["logger"] = own + [logger for logger in given if logger not in (None, True)]
        if self.stage == "ppo" and config.max_epochs is None and config.max_steps == -1:
            kwargs["max_epochs"] = -1  # --model.iterations ends the training
        if config.precision is None:
            kwargs["precision"] = self._precision(config.accelerator)
        config.callbacks = [*(config.callbacks or []), *self._callbacks(bool(config.fast_dev_run))]
        return super().instantiate_trainer(**kwargs)

    def _precision(self, accelerator: object) -> Literal["bf16-mixed", "32-true"]:
        """Computes in the dtype of the frozen weights; trained weights are float32 either way."""
        device = torch.device("cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu")
        return "bf16-mixed" if pick_dtype(self.model.dtype_name, device) == torch.bfloat16 else "32-true"

    def _callbacks(self, fast_dev_run: bool) -> list[Callback]:
        shows_bar = self._get(self.config_init, "trainer").enable_progress_bar is not False
        callbacks: list[Callback] = [ProgressBar()] if shows_bar else []
        if fast_dev_run or self.subcommand != "fit":
            reports = self.stage == "rm" and self.subcommand == "validate" and not fast_dev_run
            return [*callbacks, RewardReport(self.folder)] if reports else callbacks
        monitor, mode = self.model.monitor or (None, "min")
        if self._get(self.config_init, "data").validation_path is None and self._no_split():
            monitor = None
        folder = self.folder / "checkpoints"
        best = None
        if monitor is not None:
            best = ModelCheckpoint(folder, "best", monitor=monitor, mode=mode, enable_version_counter=False)
        last = ModelCheckpoint(folder, "last", enable_version_counter=False)  # at every validation, or epoch
        resuming = self._get(self.config_init, "ckpt_path") is not None
        return [
            *callbacks,
            RunFiles(self.folder, resuming),
            FinishStepOnInterrupt(folder / "last.ckpt"),
            ResumeInsideEpoch(),
            SampleTable(self.folder),
            *([best] if best is not None else []),
            last,
            HandOver(self.folder, best),
        ]

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Lets `validate` and `test` measure the stage's own result unless another checkpoint is named."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        given = kwargs.get("ckpt_path")
        if given not in (None, "best", "last", "hpc", "registry") and not Path(given).is_file():
            raise UserError(f"--ckpt_path={given}: no such file; give a checkpoint of this stage, or last")
        if subcommand == "fit" or kwargs.get("ckpt_path") not in (None, "best", "last"):
            return kwargs
        names = {"last": ["last"], "best": ["best"], None: ["best", "last"]}[kwargs.get("ckpt_path")]
        found = [self.folder / "checkpoints" / f"{name}.ckpt" for name in names]
        kwargs["ckpt_path"] = next((str(path) for path in found if path.is_file()), None)
        if kwargs["ckpt_path"] is None:
            run = self.folder.parent
            raise UserError(
                f"{self.stage} {subcommand}: no checkpoint in {self.folder}; "
                f"run `make {self.stage} RUN={run.name}` first"
            )
        return kwargs

    def _no_split(self) -> bool:
        return self.datamodule.validation_share == 0


def run_stage(stage: str, arguments: list[str]) -> int:
    """Runs a stage and returns its exit code.

    Args:
        stage: sft, rm or ppo.
        arguments: what follows it on the command line.

    Raises:
        UserError: a mistake in options, data or models.
    """
    module, data = STAGES[stage]
    cli = type("StageCLI", (StageCLI,), {"stage": stage})
    try:
        cli(
            module,
            data,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            trainer_class=lightning.Trainer,
            trainer_defaults={
                "use_distributed_sampler": False,
                "log_every_n_steps": 1,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_kwargs={"prog": f"lit-instruct {stage}", "epilog": FURTHER.get(stage)},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=arguments,
        )
    except InterruptedRunError:
        print(f"Stopped. Continue with: lit-instruct {stage} {' '.join(arguments)} --ckpt_path=last", flush=True)
        return 130
    except (ValueError, TypeError) as error:
        mistake = _mistake_behind(error)  # jsonargparse wraps what an option's own check says
        raise mistake or error from error
    return 0


def _mistake_behind(error: BaseException | None) -> UserError | None:
    """Returns the user's mistake in a chain of exceptions, or None."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error
