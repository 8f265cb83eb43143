"""Known exceptions of libraries, each in one sentence: this table is the one place for them.

Exceptions are recognised by the names of their classes and their texts, so that no library has to be imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from lit_instruct.errors import UserError


class Known(NamedTuple):
    """A kind of exception, and what it means for a user.

    Args:
        kinds: a pattern of the names of its class and of those above it, as module.Name.
        text: a pattern in its text.
        sentence: may refer to groups of `text`, as \\1 or \\g<name>.
    """

    kinds: str
    text: str
    sentence: str


NETWORK = r"(httpx\d?|httpcore|requests|urllib3|huggingface_hub|aiohttp)\..*(Connect|Timeout|Offline|Network|Proxy)\w*"
NO_HUB = (
    "the hub cannot be reached; check the network, or give a folder or file on this machine (a model that was used "
    "before is taken from the cache: HF_HUB_OFFLINE=1 does not even ask)"
)
TABLE = (
    Known(
        "RuntimeError",
        r"(?s)Early stopping conditioned on metric `([^`]*)` which is not available.*?any of the following: (.*)",
        r"--trainer.callbacks: EarlyStopping watches \1, and there is no such metric; choose one of \2",
    ),
    Known(
        "MisconfigurationException",
        r"(?s)`ModelCheckpoint\(monitor='([^']*)'\)` could not find .*?metrics: \[([^\]]*)\]",
        r"--trainer.callbacks: ModelCheckpoint watches \1, and there is no such metric; choose one of \2",
    ),
    Known(
        "RuntimeError",
        r"Found more than one stateful callback of type `(\w+)`",
        r"--trainer.callbacks: there are two \1 callbacks with the same settings; leave one out, or change its "
        "settings (PPO has an EarlyStopping of its own with --model.selection.patience)",
    ),
    Known(
        "ValueError",
        r"`val_check_interval` \((\d+)\) must be less than or equal to the number of the training batches \((\d+)\)",
        r"--trainer.val_check_interval=\1: an epoch has only \2 batches; give at most that many, or add "
        "--trainer.check_val_every_n_epoch=null to count over epochs",
    ),
    Known(
        "MisconfigurationException",
        "No supported gpu backend found|CUDAAccelerator.*can not run|No CUDA GPUs are available",
        "--trainer.accelerator: this PyTorch finds no GPU here; leave the option out, or install the driver and a "
        "PyTorch with CUDA",
    ),
    Known(
        "RuntimeError|AssertionError",
        "No CUDA GPUs are available|Found no NVIDIA driver|Torch not compiled with CUDA enabled",
        "this PyTorch finds no GPU here; give --trainer.accelerator=cpu, or install the driver and a PyTorch with CUDA",
    ),
    Known(
        "TypeError|ValueError|MisconfigurationException",
        r"`devices` selected with `(\w+?)Accelerator` should be (an? .*?)\.?$",
        r"--trainer.devices: must be \2 on \1, or auto",
    ),
    Known(
        "MisconfigurationException",
        r"`?Trainer\(devices=('?[^)']*'?)\)`? value is not a valid input using (\w+) accelerator",
        r"--trainer.devices=\1: no number of devices of kind \2; give 1 or more, or auto",
    ),
    Known(
        "MisconfigurationException",
        r"You requested gpu: (\[[^\]]*\])\n? *But your machine only has: (\[[^\]]*\])",
        r"--trainer.devices: there is no GPU \1 here; there are \2",
    ),
    Known(
        "RuntimeError|OSError",
        r"(?s)(?:port: (?P<port>\d+).*)?(EADDRINUSE|Address already in use)",
        r"port \g<port> is in use by another program (another training?); set MASTER_PORT to a free one",
    ),
    Known(NETWORK, "", NO_HUB),
    Known("OSError|ConnectionError|RuntimeError", r"Name or service not known|Temporary failure in name", NO_HUB),
    Known(
        "safetensors_rust.SafetensorError|SafetensorError",
        "(.*)",
        r"a file of weights is damaged or cut short (\1); copy or download it again",
    ),
    Known(
        r"ModuleNotFoundError|ImportError",
        r"No module named '?([\w.]+)'?",
        r"the package \1 is needed for this and not installed; install it in this environment",
    ),
    Known("MisconfigurationException", r"\s*([^\n]*)", r"--trainer: \1"),
)
"""From special to general: the first that fits counts."""


def explained(error: BaseException) -> UserError | None:
    """Returns a known exception of a library as an error for the user; None for any other.

    Args:
        error: so are the exceptions that it was raised from.
    """
    found: BaseException | None = error
    while found is not None:
        names = list(_names(type(found)))
        for known in TABLE:
            match = re.search(known.text, str(found))
            if match is not None and any(re.fullmatch(f"(.*\\.)?({known.kinds})", name) for name in names):
                said = match.expand(known.sentence).replace("port  is", "the port is")
                return UserError(" ".join(said.split()))
        found = found.__cause__ if found.__cause__ is not found else None
    return None


def _names(kind: type) -> Iterator[str]:
    for one in kind.__mro__:
        if one not in (object, BaseException, Exception):
            yield f"{one.__module__}.{one.__qualname__}"
