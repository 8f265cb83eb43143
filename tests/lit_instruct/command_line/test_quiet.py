"""Messages that do not help are not shown, and those that do are."""

from __future__ import annotations

import logging
import warnings

import pytest

from lit_instruct.command_line.quiet import is_news, quieten

NOISE = [
    "Found 59 module(s) in eval mode at the start of training. This may lead to unexpected behavior.",
    "Cannot enable progress bars: environment variable `HF_DATASETS_DISABLE_PROGRESS_BARS=1` is set",
    "Checkpoint directory runs/demo/sft/checkpoints exists and is not empty.",
    "The 'train_dataloader' does not have many workers which may be a bottleneck.",
]


@pytest.mark.parametrize(("text", "shown"), [("Seed set to 0", False), ("\U0001f4a1 Tip: ...", False), ("Saved", True)])
def test_lightning_s_log(text: str, shown: bool) -> None:
    assert is_news(logging.LogRecord("a", logging.INFO, "", 0, text, None, None)) == shown


def test_warnings() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        quieten()
        for text in NOISE:
            warnings.warn(text, UserWarning, stacklevel=1)
        warnings.warn("old", FutureWarning, stacklevel=1)
        warnings.warn("the loss is strange", UserWarning, stacklevel=1)
    assert [str(one.message) for one in shown] == ["the loss is strange"]
