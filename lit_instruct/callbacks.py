"""What a run shows, how it stops and what it leaves, as Lightning callbacks."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from tqdm import tqdm

from lit_instruct.handover import read_stage
from lit_instruct.metrics_file import MetricsFile
from lit_instruct.stages.base import StageModule
from lit_instruct.stages.ppo import PPOModule
from lit_instruct.stages.reward import RewardModule

SHOWN = {
    "train/loss": "loss",
    "val/loss": "val loss",
    "val/pair_accuracy": "val accuracy",
    "val/token_accuracy": "val accuracy",
    "ppo/reward": "reward",
    "ppo/kl": "KL",
    "ppo/response_length": "length",
    "ppo/tokens_per_second": "tokens/s",
    "val/reward": "val reward",
}


class InterruptedRunError(Exception):
    """Ctrl-C was pressed, the step was finished and a checkpoint saved."""


class ProgressBar(TQDMProgressBar):
    """Shows what a person wants to see: the loss; in PPO iteration, reward, KL, length, tokens/s and the time left."""

    def get_metrics(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> dict[str, Any]:
        """Picks and names the metrics beside the bar."""
        metrics = trainer.callback_metrics
        return {shown: f"{float(metrics[name]):.3g}" for name, shown in SHOWN.items() if name in metrics}

    def on_train_epoch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Lets the bar of PPO count iterations: its epochs are only passes over the prompts."""
        module = trainer.lightning_module
        if not isinstance(module, PPOModule):
            super().on_train_epoch_start(trainer, *_)
            return
        self.train_progress_bar.reset(total=module.iterations)
        self.train_progress_bar.initial = self.train_progress_bar.n = module.iterations_done
        self.train_progress_bar.set_description("PPO")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar."""
        if not isinstance(pl_module, PPOModule):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            return
        self.train_progress_bar.n = pl_module.iterations_done
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leaves the last figures standing."""
        self.train_progress_bar.set_postfix(self.get_metrics(trainer, pl_module))

    def init_validation_tqdm(self) -> tqdm:
        """A bar that disappears when it is done."""
        bar = super().init_validation_tqdm()
        bar.leave = False
        return bar


class FinishStepOnInterrupt(Callback):
    """Ctrl-C finishes the optimizer step on all processes, saves `last.ckpt` and leaves; a second one leaves at once.

    Args:
        path: the checkpoint to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pressed = False
        self.earlier: Any = None

    def on_fit_start(self, *_: Any) -> None:
        """Takes over the signal."""
        self.earlier = signal.signal(signal.SIGINT, self._press)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Looks at the flag after each step, once Lightning has logged it and validated where that was due.

        No callback hook comes that late, and `trainer.should_stop` would force a validation, so the loops' own
        `on_advance_end` is extended.
        """
        fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop

        def after_step(fetcher: Any, original: Any = epoch_loop.on_advance_end) -> None:
            original(fetcher)
            if not epoch_loop._should_accumulate() and not epoch_loop._num_ready_batches_reached():
                self._leave_if_pressed(trainer)

        def after_epoch(original: Any = fit_loop.on_advance_end) -> None:
            original()
            self._leave_if_pressed(trainer)

        epoch_loop.on_advance_end, fit_loop.on_advance_end = after_step, after_epoch

    def teardown(self, *_: Any, **__: Any) -> None:
        """Gives the signal back."""
        if self.earlier is not None:
            signal.signal(signal.SIGINT, self.earlier)
            self.earlier = None

    def _leave_if_pressed(self, trainer: lightning.Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self.pressed, all=False):
            trainer.save_checkpoint(self.path)
            raise InterruptedRunError

    def _press(self, *_: Any) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        print("\nStopping after this step; press Ctrl-C again to stop at once.", flush=True)


class SaveConfig(SaveConfigCallback):
    """Writes logs/config.yaml once the run has put the files of the one before aside."""

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Waits: a run that is refused leaves no trace."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes it."""
        super().setup(trainer, pl_module, "fit")


class RunFiles(Callback):
    """Keeps the log and checkpoint folders of a stage those of one run.

    A new run puts the files of the one before into `previous/<n>/`; a resumed run continues them from its checkpoint.

    Args:
        folder: of the stage, such as runs/demo/ppo.
        resuming: whether `--ckpt_path` was given.
    """

    def __init__(self, folder: Path, resuming: bool) -> None:
        self.folder = folder
        self.resuming = resuming
        found = (path for name in ("logs", "checkpoints") for path in (folder / name).glob("**/*"))
        self.earlier = [] if resuming else [path for path in found if path.is_file()]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Puts aside, or cuts; the data is known to be good by now."""
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile) and self.resuming:
                logger.cut(pl_module.logged_steps)
            elif isinstance(logger, MetricsFile):
                logger.forget()
        if self.earlier:
            numbers = [int(path.name) for path in (self.folder / "previous").glob("*") if path.name.isdigit()]
            aside = self.folder / "previous" / str(max(numbers, default=0) + 1)
            for path in self.earlier:
                target = aside / path.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)


class HandOver(Callback):
    """Leaves the stage's result at the end of the training: the best model where a metric chooses, else the last.

    Args:
        folder: of the stage, such as runs/demo/sft.
        best: knows the best checkpoint; None leaves the last model.
    """

    def __init__(self, folder: Path, best: ModelCheckpoint | None) -> None:
        self.folder = folder
        self.best = best

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Sets the reward model's bias and writes model and stage.json."""
        assert isinstance(pl_module, StageModule)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self.best is not None and self.best.best_model_path:
            metrics |= pl_module.load_trained_weights(self.best.best_model_path)
        if isinstance(pl_module, RewardModule):
            pl_module.set_bias()
        if trainer.is_global_zero:
            pl_module.hand_over(self.folder, metrics)
        trainer.strategy.barrier("hand over")
        if trainer.is_global_zero:
            print(
                f"\n{pl_module.stage}: done in {pl_module.seconds:.0f} s, written to {self.folder}",
                flush=True,
            )


class SampleTable(Callback):
    """Writes the validation samples of PPO to logs/samples.jsonl and to TensorBoard.

    Args:
        folder: of the stage.
        rows: samples of the table.
    """

    def __init__(self, folder: Path, rows: int = 8) -> None:
        self.path = folder / "logs" / "samples.jsonl"
        self.rows = rows

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Appends the table of this validation."""
        if not isinstance(pl_module, PPOModule) or not trainer.is_global_zero or trainer.fast_dev_run:
            return
        shown = pl_module.samples[: self.rows]
        iteration = pl_module.iterations_done
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"iteration": iteration, **row}, ensure_ascii=False) + "\n" for row in shown)
        table = "| prompt | response | reward | KL |\n|---|---|---|---|\n" + "\n".join(
            "| " + " | ".join(str(value).replace("|", "/").replace("\n", " ") for value in row.values()) + " |"
            for row in shown
        )
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("samples", table, iteration)


class RewardReport(Callback):
    """Writes what `rm validate` measured as validation.json and validation.html, and prints it.

    Args:
        folder: of the stage, such as runs/demo/rm.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Gathers the figures on every process and writes them on one."""
        assert isinstance(pl_module, RewardModule)
        measured = pl_module.validation_rewards()
        demonstrations = pl_module.demonstration_rewards()
        if not trainer.is_global_zero:
            return
        from lit_instruct.evaluation.reward_report import Demonstrations, validation_report, write_report

        stage = read_stage(self.folder)
        bias = (stage.reward_bias if stage else None) or 0.0
        data = trainer.datamodule
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
