"""One LightningCLI for each stage: `lit-instruct {sft,rm,ppo} {fit,validate,test}`."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from data_modules import PromptDataModule, PromptResponseDataModule, RankedComparisonDataModule
from data_modules.batching.sampling import ResumeInsideEpoch
from lit_instruct.checkout import stage_command
from lit_instruct.errors import UserError, causes
from lit_instruct.files import cannot_write, expand_home
from lit_instruct.models.loading import TRUST
from lit_instruct.models.places import fill_run
from lit_instruct.planning.options import flat
from lit_instruct.planning.work import StageName
from lit_instruct.running.best_checkpoint import BestCheckpoint
from lit_instruct.running.callbacks import HandOver, RewardReport, RunFiles, SampleTable, SaveConfig
from lit_instruct.running.checkpoint_files import AtomicCheckpointIO, last_checkpoint
from lit_instruct.running.config_files import TEXT, check_groups, expand_homes
from lit_instruct.running.interrupts import interrupted, without_lightning
from lit_instruct.running.last_checkpoint import InterruptedRunError, LastCheckpoint
from lit_instruct.running.loggers import check_loggers, logger_failed, with_own_loggers
from lit_instruct.running.next_command import next_command, resume_command
from lit_instruct.running.out_of_memory import check_memory, explain, is_out_of_memory
from lit_instruct.running.precision import DtypeOfRankZero, precision_of
from lit_instruct.running.processes import FSDP2, SameOnEveryRank, check_strategy, fsdp2, lost_process
from lit_instruct.running.progress_bar import StageProgress
from lit_instruct.running.progress_file import ProgressFile
from lit_instruct.running.run_folder import own_folder
from lit_instruct.running.trainer_options import SEEDED, as_list, check_trainer_options, seed_of
from lit_instruct.stages.ppo import PPOModule
from lit_instruct.stages.renamed import refuse_old_names
from lit_instruct.stages.reward import RewardModule
from lit_instruct.stages.sft import SFTModule

STAGES = {
    "sft": (SFTModule, PromptResponseDataModule),
    "rm": (RewardModule, RankedComparisonDataModule),
    "ppo": (PPOModule, PromptDataModule),
}
FURTHER = {"rm": "further subcommand: score, the rewards of the rows of a file (lit-instruct rm score --help)"}
"""Help on subcommands that are not in a stage's parser."""


class StageCLI(LightningCLI):
    """LightningCLI with a run folder, and the loggers and callbacks of a stage."""

    stage: StageName
    arguments: list[str]
    """The command line after the stage's name."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds --run, and one seed for model and data."""
        text = "folder of the run, with a folder for each stage; with --config=recipes/<name>/... it is runs/<name>"
        parser.add_argument("--run", default="runs/demo", help=text)
        parser.add_argument(
            "--check_memory", type=bool, default=True, help="refuse a stage whose plan does not fit the device"
        )
        for part in ("model", "data"):
            parser.link_arguments("seed_everything", f"{part}.seed", compute_fn=seed_of)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns the subcommands of a stage; `lit-instruct sample` takes the place of Lightning's `predict`."""
        skipped = {"model", "dataloaders", "datamodule", "train_dataloaders", "val_dataloaders"}
        skipped.add("weights_only")  # nothing else is read from a checkpoint
        return dict.fromkeys(("fit", "validate", "test"), skipped)

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return Path(self._get(self.config, "run")) / self.stage

    def before_instantiate_classes(self) -> None:
        """Checks the config files, and fills in home folders and the run folder."""
        check_groups(self.config[self.subcommand], self.parser, self.subcommand)
        config = self.config[self.subcommand]
        expand_homes(config)
        for name, value in list(config.model.items()):  # dotted names, including those of groups
            if isinstance(value, str) and not name.endswith(TEXT):
                config.model[name] = fill_run(value, config.run)
        check_trainer_options(self.stage, config.trainer)
        if self._get(self.config, "seed_everything") is False:
            raise UserError(f"--seed_everything=false: {SEEDED}")
        check_loggers(as_list(config.trainer.logger), self.folder)
        if self.subcommand == "fit" and self._get(self.config, "check_memory"):
            check_memory(self.stage, self._options())

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Adds the loggers and callbacks of a stage to those that the user configured."""
        config = self._get(self.config_init, "trainer")
        named = [logger for logger in as_list(config.logger) if not isinstance(logger, bool)]
        kwargs["default_root_dir"] = str(self.folder)  # not in the config, so that logs/config.yaml trains other runs
        if self.subcommand != "fit":
            kwargs["logger"] = named or False  # the logs in the folder are those of the training
        elif config.logger is not False:
            kwargs["logger"] = with_own_loggers(named, self.folder)
        if self.stage == "ppo" and config.max_epochs is None and config.max_steps == -1:
            kwargs["max_epochs"] = -1  # --model.iterations ends the training
        dtype, derived = self._dtype(config.accelerator), config.precision is None and config.strategy != FSDP2
        if derived:
            kwargs["precision"] = precision_of(dtype)
        config.plugins = self._plugins(config.plugins)
        config.callbacks = [
            *as_list(config.callbacks),
            DtypeOfRankZero(derived),
            *self._callbacks(bool(config.fast_dev_run)),
        ]
        if config.strategy == FSDP2:
            # FSDP2 casts by itself
            kwargs |= {"strategy": fsdp2(config.devices, config.num_nodes), "precision": "32-true"}
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ImportError, TypeError, ValueError) as error:  # usually from a strategy or for a number of devices
            raise MisconfigurationException(str(error)) from error
        check_strategy(trainer.strategy, self.model)
        return trainer

    def _plugins(self, given: Any) -> list[Any]:
        """Adds atomic writing of checkpoints, unless the user gave another plugin for it."""
        plugins = as_list(given)
        own = [] if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [AtomicCheckpointIO()]
        return [*plugins, *own]

    def _dtype(self, accelerator: object) -> torch.dtype:
        """Returns the dtype of frozen weights."""
        device = torch.device("cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu")
        return self.model.dtype_choice.choose(self.model.source, device, self.checkpoint).dtype

    def _callbacks(self, fast_dev_run: bool) -> list[Callback]:
        trainer = self._get(self.config_init, "trainer")
        has_bar = any(isinstance(callback, ProgressBar) for callback in as_list(trainer.callbacks))
        bar = [] if has_bar or trainer.enable_progress_bar is False else [StageProgress()]
        callbacks: list[Callback] = [SameOnEveryRank(), *bar]
        if fast_dev_run or self.subcommand != "fit":
            reports = self.stage == "rm" and self.subcommand == "validate" and not fast_dev_run
            return [*callbacks, RewardReport(self.folder)] if reports else callbacks
        monitor, mode = self.model.monitor or (None, "min")
        if self._get(self.config_init, "data").validation_path is None and self.datamodule.validation_share == 0:
            monitor = None
        folder = self.folder / "checkpoints"
        best, stopping = None, []
        if monitor is not None:
            best = BestCheckpoint(folder, monitor, mode, self.checkpoint)
            if self.model.patience is not None:
                patience = self.model.patience
                stopping = [EarlyStopping(monitor, 0.0, patience, True, mode, check_on_train_epoch_end=False)]
        return [
            *callbacks,
            RunFiles(self.folder, self.checkpoint is not None),
            ProgressFile(self.folder),
            ResumeInsideEpoch(),
            SampleTable(self.folder),
            *stopping,
            *([best] if best is not None else []),
            LastCheckpoint(folder / "last.ckpt"),
            HandOver(self.folder, best, next_command(self.stage, self.folder.parent, self.arguments)),
        ]

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Makes `validate` and `test` use the stage's own result unless another checkpoint is given."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self.checkpoint
        if kwargs["ckpt_path"] is None and subcommand != "fit":
            command = stage_command(self.stage, self.folder.parent)
            raise UserError(f"{self.stage} {subcommand}: no checkpoint in {self.folder}; run `{command}` first")
        return kwargs

    @cached_property
    def checkpoint(self) -> str | None:
        """The checkpoint to open; None trains from the start, also if a run stopped before it wrote `last`.

        Raises:
            UserError: the given checkpoint does not exist.
        """
        given = self._get(self.config_init, "ckpt_path")
        if given in ("hpc", "registry"):
            return str(given)
        names = {"last": ["last"], "best": ["best"], None: [] if self.subcommand == "fit" else ["best", "last"]}
        if given in names:
            places = [last_checkpoint(self.folder / "checkpoints" / f"{name}.ckpt") for name in names[given]]
        else:
            places = [last_checkpoint(Path(expand_home(given)))]
        found = next((str(place) for place in places if place is not None), None)
        if found is None and given == "last" and self.subcommand == "fit":
            rank_zero_info(f"--ckpt_path=last: nothing was saved in {self.folder / 'checkpoints'}; starting afresh")
        elif found is None and given is not None and given != "last":
            raise UserError(f"--ckpt_path={given}: no such checkpoint; give one of this stage, or last")
        return found

    def _parse_ckpt_path(self) -> None:
        """Does nothing: Lightning would let a checkpoint's `hyper_parameters` override the command line."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the subcommand, with the stage's folder for this run alone."""
        writes = subcommand == "fit" and self.trainer.is_global_zero and not self.trainer.fast_dev_run
        with own_folder(self.folder) if writes else contextlib.nullcontext():
            try:
                with without_lightning(self._end_others):
                    super()._run_subcommand(subcommand)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                table, told = explain(self.stage, self._options(), self._resumable())
                print(f"\n{table}", flush=True)
                raise told from error
            except OSError as error:
                if error.errno != errno.ENOSPC or self._resumable() is not None:
                    raise
                raise cannot_write(self.folder, error) from error

    def _end_others(self) -> None:
        """Kills the processes that the Trainer has launched."""
        launcher = self.trainer.strategy.launcher
        if hasattr(launcher, "kill"):
            launcher.kill(signal.SIGKILL)

    def _resumable(self) -> Path | None:
        """The last checkpoint, if it is of this run rather than of an earlier one."""
        begun = any(callback.begun for callback in self.trainer.callbacks if isinstance(callback, RunFiles))
        return last_checkpoint(self.folder / "checkpoints" / "last.ckpt") if begun else None

    def _options(self) -> dict[str, Any]:
        return flat(self.config[self.subcommand])


def run_stage(stage: str, arguments: list[str]) -> int:
    """Runs a stage with the command line after its name and returns the exit code.

    Raises:
        UserError: a mistake in options, data or models.
    """
    refuse_old_names(stage, arguments)
    module, data = STAGES[stage]
    cli = type("StageCLI", (StageCLI,), {"stage": stage, "arguments": arguments})
    try:
        cli(
            module,
            data,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            load_from_checkpoint_support=False,
            args=arguments,
            **parser_settings(stage),
        )
    except InterruptedRunError:
        if rank_zero_only.rank != 0:
            return 0  # a launcher would kill rank 0 if another process failed
        trust = ["--trust_remote_code"] if os.environ.get(TRUST) == "true" else []
        print(f"Stopped. Resume with: {resume_command(stage, [*arguments, *trust])}", flush=True)
        return interrupted()
    except KeyboardInterrupt:
        if rank_zero_only.rank != 0:
            return 0
        raise
    except (ValueError, TypeError) as error:
        raise mistake_behind(error) from error
    except RuntimeError as error:
        raise lost_process(error) or error from error
    except Exception as error:
        raise logger_failed(error) or error from error
    return 0


def parser_settings(stage: str) -> dict[str, Any]:
    """Returns the arguments of LightningCLI that decide which options a stage has, with which defaults."""
    return {
        "trainer_class": lightning.Trainer,
        "trainer_defaults": {
            "use_distributed_sampler": False,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_model_summary": False,
        },
        "auto_configure_optimizers": False,
        "parser_kwargs": {"prog": f"lit-instruct {stage}", "epilog": FURTHER.get(stage), "exit_on_error": False},
    }


def mistake_behind(error: Exception) -> BaseException:
    """Returns the UserError that jsonargparse wrapped when an option's own check failed, else the error itself."""
    return next((found for found in causes(error) if isinstance(found, UserError)), error)
