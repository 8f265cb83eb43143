"""The loggers of a run: metrics.csv and TensorBoard always, and those that the user names beside them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from lit_instruct.errors import UserError, causes
from lit_instruct.running.metrics_file import MetricsFile

PACKAGES = {
    "CometLogger": ("comet_ml", "comet-ml"),
    "MLFlowLogger": ("mlflow", "mlflow"),
    "NeptuneLogger": ("neptune", "neptune"),
    "WandbLogger": ("wandb", "wandb"),
}
"""Lightning's logger -> the module that it needs, and the package that has it."""
HERE = {"WandbLogger": (".", ""), "MLFlowLogger": ("./mlruns", "mlruns")}
"""Lightning's logger -> the default of its `save_dir` in the current folder, and its place in the run folder."""


def check_loggers(given: list[Any], folder: Path) -> None:
    """Checks the loggers of --trainer.logger before they are made, and moves their files into the run folder.

    Args:
        given: their configurations; changed in place where `save_dir` is the default.
        folder: of the stage, such as runs/demo/ppo.

    Raises:
        UserError: the package of a logger is not installed.
    """
    for logger in given:
        if not isinstance(logger, Namespace) or "class_path" not in logger:
            continue
        name = logger.class_path.rpartition(".")[2]
        if not logger.class_path.startswith("lightning.pytorch.loggers."):
            continue
        module, package = PACKAGES.get(name, ("", ""))
        if module and find_spec(module) is None:
            raise UserError(
                f"--trainer.logger={name}: the package {package} is not installed; install it (pip install {package}), "
                "or leave the option out: metrics.csv and TensorBoard are always written"
            )
        default, place = HERE.get(name, (None, ""))
        if default is not None and logger.init_args.get("save_dir") == default:
            logger.init_args.save_dir = str(folder / place)


def logger_failed(error: BaseException) -> UserError | None:
    """Returns the error for an exception of a logger's package, such as W&B without a key; None for any other."""
    for found in causes(error):
        package = type(found).__module__.partition(".")[0]
        name = next((name for name, (module, _) in PACKAGES.items() if module == package), None)
        if name is not None:
            what = " ".join(str(found).split()).rstrip(".") or type(found).__name__
            offline = " (WANDB_MODE=offline needs no key and no network)" if package == "wandb" else ""
            return UserError(f"--trainer.logger={name}: {what}; correct this, or leave the option out{offline}")
    return None


def with_own_loggers(given: list[Any], folder: Path) -> list[Logger]:
    """Returns the given loggers after our own: metrics.csv, and TensorBoard unless one is given.

    Args:
        given: loggers of the user.
        folder: of the stage.
    """
    own: list[Logger] = [MetricsFile(folder / "logs")]
    if not any(isinstance(logger, TensorBoardLogger) for logger in given):
        own.append(TensorBoardLogger(folder, name="logs", version=""))
    return own + given
