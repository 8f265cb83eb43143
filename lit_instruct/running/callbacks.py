"""Lightning callbacks of a run: log files, samples, result and reward report."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info

from lit_instruct.errors import UserError
from lit_instruct.files import replacing_file
from lit_instruct.handover import read_stage
from lit_instruct.running.metrics_file import MetricsFile
from lit_instruct.running.next_command import main_figure
from lit_instruct.stages.base import StageModule
from lit_instruct.stages.non_finite import check_figures
from lit_instruct.stages.ppo import PPOModule
from lit_instruct.stages.reward import RewardModule


class SaveConfig(SaveConfigCallback):
    """Writes logs/config.yaml once the files of the previous run have been moved away."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Does nothing yet, so that a refused run leaves no trace."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes the file."""
        super().setup(trainer, pl_module, "fit")


class RunFiles(Callback):
    """Separates the files of different runs in the log and checkpoint folders of a stage.

    A new run moves the files of the previous one to `previous/<n>/`; a resumed run continues them from its checkpoint.

    Args:
        folder: of the stage, such as runs/demo/ppo.
        resuming: whether `--ckpt_path` was given.
    """

    def __init__(self, folder: Path, resuming: bool) -> None:
        self.folder = folder
        self.resuming = resuming
        self.rows = 0
        """Rows of metrics.csv when the checkpoint was written."""
        self.begun = resuming
        """Whether the files in the folder are those of this run."""
        self.trainer: lightning.Trainer | None = None
        found = (path for name in ("logs", "checkpoints", "non_finite") for path in (folder / name).glob("**/*"))
        self.earlier = [] if resuming else [path for path in found if path.is_file()]

    def setup(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        """Keeps the trainer: Lightning does not pass it to `state_dict`."""
        self.trainer = trainer

    def state_dict(self) -> dict[str, int]:
        """Returns the rows of metrics.csv, including the one logged after the validation that saves a checkpoint."""
        assert self.trainer is not None
        files = self._metrics_files(self.trainer)
        return {"rows": files[0].rows + self.trainer.validating if files else 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restores the count."""
        self.rows = state_dict["rows"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Moves or truncates the files, after the data has been checked."""
        if not trainer.is_global_zero:
            return
        for file in self._metrics_files(trainer):
            if self.resuming:
                file.cut(self.rows)
            else:
                file.forget()
        if self.earlier:
            numbers = [int(path.name) for path in (self.folder / "previous").glob("*") if path.name.isdigit()]
            aside = self.folder / "previous" / str(max(numbers, default=0) + 1)
            for path in self.earlier:
                target = aside / path.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
        self.begun = True

    def _metrics_files(self, trainer: lightning.Trainer) -> list[MetricsFile]:
        return [found for found in trainer.loggers if isinstance(found, MetricsFile)] if trainer.is_global_zero else []


@dataclass(eq=False)
class HandOver(Callback):
    """Writes the stage's result at the end of training: the best model if a metric is monitored, else the last."""

    folder: Path
    """Of the stage, such as runs/demo/sft."""
    best: ModelCheckpoint | None
    """Knows the best checkpoint; None writes the last model."""
    follows: str = ""
    """The command to run next, which is told at the end."""
    done: bool = field(default=False, init=False)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes the result of a training that stopped after its last step: resuming it calls no loop hook."""

        def run(original: Any = trainer.fit_loop.run) -> None:
            original()
            if not self.done:
                assert isinstance(pl_module, StageModule)
                if trainer.global_step == 0:
                    raise UserError(
                        f"{pl_module.stage}: nothing would be trained; raise --trainer.max_epochs, max_steps, max_time "
                        "or limit_train_batches"
                    )
                refuse_to_relabel(pl_module.resume.changed)
                rank_zero_info("--ckpt_path: this training was complete; only its result is written again")
                self.on_train_end(trainer, pl_module)

        trainer.fit_loop.run = run

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Sets the reward model's bias; writes model and stage.json."""
        assert isinstance(pl_module, StageModule)
        self.done = True
        if pl_module.only_measured:
            refuse_to_relabel(pl_module.resume.changed)
        metrics = pl_module.metrics_so_far()
        if self.best is not None and self.best.best_model_path:
            metrics |= pl_module.load_trained_weights(self.best.best_model_path)
        elif self.best is not None:
            rank_zero_info(f"no validation has measured {self.best.monitor}, so the last model is handed over")
        check_figures(pl_module.stage, metrics, self.best.monitor if self.best is not None else None)
        pl_module.save(self.folder, metrics)
        if trainer.is_global_zero:
            done = [f"done in {pl_module.seconds:.0f} s", main_figure(pl_module.stage, metrics)]
            told = [f"{pl_module.stage}: {', '.join(filter(None, done))}, written to {self.folder}"]
            told += [ending] if (ending := pl_module.ending()) is not None else []
            print("\n".join(told + ([f"next: {self.follows}"] if self.follows else [])), flush=True)


def refuse_to_relabel(changed: list[str]) -> None:
    """Refuses to hand over what a complete training made as the result of other options."""
    if changed:
        raise UserError(
            f"--ckpt_path: this training was complete with another {', '.join(changed)}, and nothing is left to train; "
            "start a new training without --ckpt_path, give it more to do, or give the options of the checkpoint"
        )


@dataclass(eq=False)
class SampleTable(Callback):
    """Writes all validation samples of PPO to <folder>/logs/samples.jsonl, and the first ones to TensorBoard."""

    folder: Path
    shown: int = 8
    """Samples per validation in TensorBoard."""
    written: int = field(default=0, init=False)
    """Lines of this run in the file."""

    @property
    def path(self) -> Path:
        """The file of samples."""
        return self.folder / "logs" / "samples.jsonl"

    def state_dict(self) -> dict[str, int]:
        """Returns the number of lines written."""
        return {"written": self.written}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restores the count."""
        self.written = state_dict["written"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Removes lines written after the checkpoint."""
        if not trainer.is_global_zero or not self.path.is_file():
            return
        with self.path.open(encoding="utf-8") as file:
            lines = file.readlines()
        if len(lines) > self.written:
            with replacing_file(self.path) as scratch:
                scratch.write_text("".join(lines[: self.written]), encoding="utf-8")

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Appends the samples of this validation, in the order of its prompts."""
        if not isinstance(pl_module, PPOModule) or trainer.fast_dev_run:
            return
        rows = [*pl_module.ranks.gather(pl_module.validation.samples).values()]
        if not trainer.is_global_zero:
            return
        iteration = pl_module.iterations_done
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"iteration": iteration, **row}, ensure_ascii=False) + "\n" for row in rows)
        self.written += len(rows)
        shown = rows[: self.shown]
        lines = [shown[0].keys(), ["---"] * len(shown[0]), *(row.values() for row in shown)]
        table = "\n".join(
            "| " + " | ".join(" ".join(str(value).replace("|", "/").split()) for value in line) + " |" for line in lines
        )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", table, iteration)


@dataclass(eq=False)
class RewardReport(Callback):
    """Prints the figures of `rm validate` and writes them to validation.json and validation.html."""

    folder: Path
    """Of the stage, such as runs/demo/rm."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Gathers the figures from all processes and writes them on rank 0."""
        assert isinstance(pl_module, RewardModule)
        measured = pl_module.validation_rewards()
        demonstrations = pl_module.demonstration_rewards()
        if not trainer.is_global_zero:
            return
        from lit_instruct.evaluation.reward_report import Demonstrations, validation_report, write_report

        stage = read_stage(self.folder)
        bias = (stage.reward_bias if stage else None) or 0.0
        data = pl_module.data
        rows = [row for number, row in enumerate(data.validation_rows) if number in measured]
        lengths = [[len(pl_module.prompter.response_ids(text)) for text in row.responses] for row in rows]
        shown = None if demonstrations is None else Demonstrations(demonstrations.tolist(), bias)
        origin = {
            "base": pl_module.source_name,
            "checkpoint": Path(str(trainer.ckpt_path)).name,
            "data": data.validation_path or f"{data.validation_share:.0%} of {data.path}",
            "loss": float(trainer.callback_metrics["val/loss"]),
        }
        report = validation_report(rows, list(measured.values()), lengths, shown)
        write_report(self.folder, report, origin, [[r + bias for r in row] for row in measured.values()], lengths)
