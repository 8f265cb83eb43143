"""Keeps messages of libraries away that do not help a user."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from lit_instruct.terminal import PrintableRecord

SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "BITSANDBYTES_NOWELCOME": "1",
    "JSONARGPARSE_DEPRECATION_WARNINGS": "off",
}
"""Environment variables that the libraries read when they are imported; those of the user win."""
NOISE = (
    "\U0001f4a1",
    "GPU available",
    "TPU available",
    "HPU available",
    "`Trainer.fit` stopped",
    "Restor",
    "Seed set",
    "`weights_only` was not set",
    "Using bfloat16 Automatic",
    "Using 16bit Automatic",
)
"""How Lightning's tips, device list and messages at the end of a training begin."""
WARNINGS = (
    "LightningCLI.s args parameter",
    ".*num_workers",
    ".*does not have many workers",
    ".*in eval mode at the start of training",  # frozen networks and dropout-free roles are in it on purpose
    "Cannot (en|dis)able progress bars",
    "Checkpoint directory .* exists and is not empty",  # last.ckpt and best.ckpt of this stage are there on purpose
    r"\s*Unable to serialize instance",
    "Be aware that when using `ckpt_path`, callbacks",  # of a training, and this is a validation
)
"""How warnings begin that are about what we do on purpose."""


def quieten() -> None:
    """Silences what does not help, and makes log messages harmless; runs before the libraries are imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.setLogRecordFactory(PrintableRecord)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(logger).addFilter(is_news)
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def is_news(record: logging.LogRecord) -> bool:
    """Returns whether a message of Lightning's says something that a user does not know."""
    return not record.getMessage().startswith(NOISE)
