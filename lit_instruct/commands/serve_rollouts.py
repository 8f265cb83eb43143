"""`lit-instruct serve-rollouts`: the command that starts a vLLM server for the rollouts of PPO."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import PeftConfig

from lit_instruct.errors import UserError
from lit_instruct.handover import chosen_dtype
from lit_instruct.models.checks import context_of
from lit_instruct.models.dtype import DtypeName
from lit_instruct.models.loading import Source, find_source, load_config
from lit_instruct.models.lora import LoraOptions

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of --max-lora-rank that vLLM takes."""
USUAL_LENGTH = 2048
ANYWHERE = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
ON_CPU = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""One process, and one GiB of cached keys and values."""


@dataclass
class ServeRolloutsOptions:
    """Prints the command that starts a vLLM server for the rollouts of PPO, or starts it (docs/vllm.md).

    Args:
        run: run folder such as runs/demo, from whose SFT stage PPO starts; or a model as --model.base names it.
        start: becomes the server instead of printing its command.
        python: Python of the environment that vLLM is installed in, such as .venv-vllm/bin/python; null calls `vllm`.
        device: gpu, or cpu for vLLM's CPU build.
        host: address that the server listens on; anyone who reaches it can use it and make it read files.
        port: of the server.
        dtype: of the base; auto is what PPO takes on this machine.
        max_model_len: tokens of the longest prompt with its response; null is the model's own, at most 2048.
        lora_rank: largest rank of the policy's adapter; null is that of the SFT stage's adapter, or 16.
        more: further arguments of vLLM, such as "--tensor-parallel-size=2 --gpu-memory-utilization=0.5".
    """

    run: str
    start: bool = False
    python: str | None = None
    device: Literal["gpu", "cpu"] = "gpu"
    host: str = "127.0.0.1"
    port: int = 8801
    dtype: DtypeName = "auto"
    max_model_len: int | None = None
    lora_rank: int | None = None
    more: str = ""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name, most in (("port", 65535), ("max_model_len", None), ("lora_rank", RANKS[-1])):
            value = getattr(self, name)
            if value is not None and (value < 1 or (most is not None and value > most)):
                raise UserError(f"--{name}={value}: must be at least 1" + (f" and at most {most}" if most else ""))


def serve_rollouts(options: ServeRolloutsOptions) -> None:
    """Prints the command, or becomes the server.

    Raises:
        UserError: there is no such run or model, or the program cannot be started.
    """
    folder = Path(options.run) / "sft"
    source = find_source(str(folder) if folder.is_dir() else options.run)
    environment = ANYWHERE | (ON_CPU if options.device == "cpu" else {})
    words = _words(options, source)
    print(" ".join([*(f"{name}={value}" for name, value in environment.items()), shlex.join(words)]), flush=True)
    if options.start:
        _become(words, environment)


def _words(options: ServeRolloutsOptions, source: Source) -> list[str]:
    """Program and arguments."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name, _, revision = source.base.partition("@")
    hub = not Path(source.base).exists()
    program = ["vllm", "serve"] if options.python is None else [options.python, *_API_SERVER]
    context = context_of(load_config(source)) or USUAL_LENGTH
    wanted = {
        "host": options.host,
        "port": options.port,
        "dtype": chosen_dtype(options.dtype, device, source).name,
        "max-model-len": options.max_model_len or min(context, USUAL_LENGTH),
        "max-loras": 2,
        "max-lora-rank": next(rank for rank in RANKS if rank >= _rank(options, source)),
        "generation-config": "vllm",
        "logprobs-mode": "processed_logprobs",
    }
    return [
        *program,
        name if hub else source.base,
        *(["--revision", revision] if hub and revision else []),
        "--enable-lora",
        *(f"--{option}={value}" for option, value in wanted.items()),
        *(["--enforce-eager"] if options.device == "cpu" else []),
        *shlex.split(options.more),
    ]


_API_SERVER = ("-m", "vllm.entrypoints.openai.api_server", "--model")


def _rank(options: ServeRolloutsOptions, source: Source) -> int:
    if options.lora_rank is not None:
        return options.lora_rank
    return LoraOptions().r if source.adapter is None else PeftConfig.from_pretrained(str(source.adapter)).r


def _become(words: Sequence[str], environment: Mapping[str, str]) -> None:
    """Replaces this process by the server; its libraries must not be looked for in our environment."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    try:
        os.execvpe(words[0], list(words), kept | dict(environment))
    except OSError as error:
        raise UserError(
            f"--start: cannot start {words[0]} ({error.strerror}); name the Python of vLLM's environment with "
            "--python, which `make vllm-env` builds for CPUs"
        ) from error
