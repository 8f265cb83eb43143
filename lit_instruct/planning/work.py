"""What a stage does, as far as its memory follows from it: read from its options, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lit_instruct.errors import UserError
from lit_instruct.fast.packing import ENOUGH_TOKENS
from lit_instruct.fast.short_attention import SHORT
from lit_instruct.models.loading import awaits_stage, pick_dtype
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.optimizers import OptimizerName
from lit_instruct.models.quantised import Quantize
from lit_instruct.planning.activations import Attention
from lit_instruct.planning.shapes import ModelShape, shape_of

StageName = Literal["sft", "rm", "ppo"]
Options = Mapping[str, Any]
"""Option by dotted name, such as model.lora.r; null LoRA is model.lora alone."""
MOST_RESPONSES = 9
"""Ranked responses to a prompt (section 3.4: 4 to 9)."""


@dataclass(frozen=True)
class Rollouts:
    """How responses are sampled."""

    rows: int
    """Decoded side by side."""
    prompt: int
    """Tokens of the longest prompt."""
    new: int
    """Tokens that may follow it."""
    kept_rows: int
    """Of an iteration, on one process."""
    value: Literal["reward_model", "zero_head", "policy_trunk"]
    shared_reward: bool
    """Whether the reward model is an adapter on the policy's base."""
    average: bool
    """Whether an average of the policy is kept."""
    merged: bool
    """Whether adapters are folded into a copy of plain weights to decode."""


@dataclass(frozen=True)
class Work:
    """What one process of a stage holds and computes."""

    stage: StageName
    model: ModelShape
    device: Literal["cpu", "cuda"]
    frozen_bytes: int
    """Of a number in frozen weights that are not quantised."""
    compute: int
    """Bytes of a number in matrix products."""
    quantize: Quantize
    lora: LoraOptions | None
    optimizer: OptimizerName
    checkpointing: bool
    offloading: bool
    rows: int
    """Sequences in the largest pass with gradients."""
    length: int
    """Tokens of each, at most."""
    tokens: int
    """Tokens whose activations exist at one time."""
    scored: int
    """Those that go through the output embedding."""
    passes: int
    """Forward and backward passes of an optimizer step."""
    processes: int
    sharded: Literal["nothing", "states", "everything"]
    """What the processes share among them: optimizer states and gradients, or weights as well."""
    attends: Attention
    """How rows of a pass with gradients attend."""
    others: tuple[ModelShape, ...]
    """Reward models that have a base of their own."""
    rollouts: Rollouts | None
    """None but for PPO."""


def read_work(stage: StageName, options: Options, device: Literal["cpu", "cuda"], base: str) -> Work:
    """Returns what a stage does.

    Args:
        stage: sft, rm or ppo.
        options: of model, data and trainer.
        device: where it will run.
        base: what the stage starts from: a name, hub id or folder whose configuration can be had.

    Raises:
        UserError: a model is not known.
    """
    model, lora = shape_of(base), _lora(options)
    processes = processes_of(options)
    frozen = pick_dtype(options["model.dtype"], torch.device("cpu")).itemsize if device == "cpu" else 2
    frozen = {"auto": frozen, "float32": 4, "bfloat16": 2}[options["model.dtype"]]
    precision = str(options.get("trainer.precision") or "")
    compute = frozen if not precision else (2 if "16" in precision else 4)
    reward = options.get("model.reward.model") if stage == "ppo" and not options.get("model.reward.function") else None
    shared = lora is not None and reward is not None and _is_stage(str(reward))
    others = [shape_of(base) if _is_stage(str(reward)) else shape_of(str(reward))] if reward and not shared else []
    others += [shape_of(str(item["model"])) for item in options.get("model.reward.further") or () if item["model"]]
    others += [shape_of(str(options["model.selection_reward"]))] if options.get("model.selection_reward") else []
    rows, length, tokens, passes = _batch(stage, options, processes, device)
    prompt = int(options.get("data.max_prompt_length", 0))
    return Work(
        stage=stage,
        model=model,
        device=device,
        frozen_bytes=frozen,
        compute=compute,
        quantize=options["model.quantize"],
        lora=lora,
        optimizer=options["model.optimizer.name"],
        checkpointing=options["model.memory.gradient_checkpointing"],
        offloading=options["model.memory.activation_offloading"] and device == "cuda",
        rows=rows,
        length=length,
        tokens=tokens,
        scored={"sft": tokens, "rm": 0, "ppo": rows * (length - prompt)}[stage],
        passes=passes,
        processes=processes,
        sharded=_sharded(options) if processes > 1 else "nothing",
        attends=_attends(stage, options, device == "cpu" and compute == 2 and length <= SHORT),
        others=tuple(others),
        rollouts=_rollouts(options, processes, shared) if stage == "ppo" else None,
    )


def _batch(stage: StageName, options: Options, processes: int, device: str) -> tuple[int, int, int, int]:
    """Rows and their length, tokens of the largest pass, and passes of an optimizer step."""
    size = int(options["data.batch_size"])
    accumulated = int(options.get("trainer.accumulate_grad_batches") or 1)
    if stage == "sft":
        length = int(options["data.max_length"])
        return size, length, size * length, accumulated
    if stage == "rm":
        length = int(options["data.max_length"])
        whole = size * MOST_RESPONSES * length
        most = min(int(options["model.max_tokens"]), ENOUGH_TOKENS.get(device, whole))
        tokens = max(length, min(most, whole))
        return max(1, tokens // length), length, tokens, accumulated * -(-whole // tokens)
    length = int(options["data.max_prompt_length"]) + int(options["model.sampling.max_new_tokens"])
    minibatch = -(-(size // processes or 1) // int(options["model.objective.minibatches"]))
    rows = min(int(options["model.memory.micro_batch_size"]), minibatch)
    rows = max(1, min(rows, ENOUGH_TOKENS.get(device, rows * length) // length))
    return rows, length, rows * length, -(-minibatch // rows)


def _attends(stage: StageName, options: Options, short: bool) -> Attention:
    if stage == "rm" and options["model.shared_prompt"] != "off":
        return "branches"
    if short:
        return "short"
    return "whole"


def _rollouts(options: Options, processes: int, shared: bool) -> Rollouts:
    size = max(1, int(options["data.batch_size"]) // processes)
    return Rollouts(
        rows=min(int(options["model.memory.generation_batch_size"]), size),
        prompt=int(options["data.max_prompt_length"]),
        new=int(options["model.sampling.max_new_tokens"]),
        kept_rows=size,
        value=options["model.value.start"],
        shared_reward=shared,
        average=options.get("model.optimizer.ema_decay") is not None,
        merged=bool(options["model.memory.merge_for_rollouts"]),
    )


def _lora(options: Options) -> LoraOptions | None:
    prefix = "model.lora."
    given = {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}
    return LoraOptions(**given) if given else None


def processes_of(options: Options) -> int:
    """Returns how many processes a stage runs in; "auto" counts as one card of each node."""
    devices, nodes = options.get("trainer.devices", 1), int(options.get("trainer.num_nodes") or 1)
    if isinstance(devices, list):
        return len(devices) * nodes
    text = str(devices)
    if text in ("auto", "-1", "None"):
        return nodes  # one card unless the recipe says more
    if not text.isdigit():
        return len(text.split(",")) * nodes
    return max(1, int(text)) * nodes


def _sharded(options: Options) -> Literal["nothing", "states", "everything"]:
    strategy = str(options.get("trainer.strategy.class_path") or options.get("trainer.strategy") or "").lower()
    stage = options.get("trainer.strategy.init_args.stage")
    if "modelparallel" in strategy or "fsdp" in strategy or "stage_3" in strategy or stage == 3:
        return "everything"
    return "states" if "deepspeed" in strategy else "nothing"


def _is_stage(name: str) -> bool:
    """Returns whether a reward model is a stage's adapter, or the place of one that is not trained yet."""
    folder = Path(name)
    if folder.is_dir():
        return (folder / "adapter_config.json").is_file()
    return awaits_stage(name, "rm")


def trains_on(work: Work) -> str:
    """Says in a few words what is trained on what."""
    base = {"none": "bfloat16" if work.frozen_bytes == 2 else "float32"}.get(work.quantize, work.quantize)
    if work.lora is None:
        return "all weights, in float32"
    kind = "DoRA" if work.lora.dora else "LoRA"
    return f"{kind} of rank {work.lora.r} on a base in {base.replace('bit', ' bits')}"


def check_gpu_size(text: str) -> float:
    """Returns a card's memory in bytes; a card of 24 GB has 24 times 2^30.

    Args:
        text: such as 24GB, 24 or 24GiB.

    Raises:
        UserError: it is no size.
    """
    number = text.strip().upper().removesuffix("IB").removesuffix("B").removesuffix("G").strip()
    try:
        size = float(number)
    except ValueError:
        size = 0.0
    if not 0.5 <= size <= 1024:
        raise UserError(f"--gpu={text}: no size of a card; give its memory in GB, such as --gpu=24GB")
    return size * 2**30
