"""Known exceptions of libraries become a sentence; all others stay what they are."""

from __future__ import annotations

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError

import lit_instruct.cli as cli
from lit_instruct.command_line.library_errors import explained
from lit_instruct.errors import UserError


class ConnectError(Exception):
    """As httpx has it."""

    __module__ = "httpx2"


STOPPING = (
    "Early stopping conditioned on metric `val_loss` which is not available. Pass in or modify your `EarlyStopping` "
    "callback to use any of the following: `train/loss`, `val/loss`"
)
KEPT = (
    "`ModelCheckpoint(monitor='nope')` could not find the monitored key in the returned metrics: ['train/loss']. "
    "HINT: Did you call `log('nope', value)` in the `LightningModule`?"
)
KNOWN = [
    (RuntimeError(STOPPING), "EarlyStopping watches val_loss, and there is no such metric; choose one of `train/loss`"),
    (MisconfigurationException(KEPT), "ModelCheckpoint watches nope, and there is no such metric; choose one of 'tr"),
    (MisconfigurationException("No supported gpu backend found!"), "this PyTorch finds no GPU here"),
    (RuntimeError("No CUDA GPUs are available"), "this PyTorch finds no GPU here; give --trainer.accelerator=cpu"),
    (
        MisconfigurationException("`devices` selected with `CPUAccelerator` should be an int > 0."),
        "--trainer.devices: must be an int > 0 on CPU, or auto",
    ),
    (RuntimeError("failed to listen. port: 29500, useIpv6: false, name: EADDRINUSE"), "port 29500 is in use by"),
    (OSError(98, "Address already in use"), "the port is in use by another program"),
    (ConnectError("[Errno -2] Name or service not known"), "the hub cannot be reached; check the network"),
    (SafetensorError("Error while deserializing header: header too large"), "(Error while deserializing header: head"),
    (ModuleNotFoundError("No module named 'deepspeed'"), "the package deepspeed is needed for this and not installed"),
    (MisconfigurationException("Something else.\nMore."), "--trainer: Something else."),
]


@pytest.mark.parametrize(("error", "said"), KNOWN, ids=[str(error)[:30] for error, _ in KNOWN])
def test_a_known_exception(error: Exception, said: str) -> None:
    told = explained(error)
    assert isinstance(told, UserError)
    assert said in str(told)
    assert "\n" not in str(told)


def test_what_it_was_raised_from_counts_and_what_was_being_handled_does_not() -> None:
    outer = RuntimeError("a batch failed")
    outer.__cause__ = ConnectError("no network")
    assert explained(outer) is not None
    outer = RuntimeError("a batch failed")
    outer.__context__ = ConnectError("no network")
    assert explained(outer) is None
    outer.__cause__ = outer
    assert explained(outer) is None


def test_the_command_line_prints_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bool:
        raise MisconfigurationException("No supported gpu backend found!")

    monkeypatch.setattr(cli, "answered", fails)
    assert cli.main(["chat"]) == 2
    assert capsys.readouterr().err.startswith("lit-instruct: error: --trainer.accelerator: this PyTorch finds no GPU")


def test_other_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "answered", fails)
    with pytest.raises(ZeroDivisionError):
        cli.main(["chat"])
