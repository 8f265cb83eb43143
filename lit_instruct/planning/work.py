"""What a stage holds and computes, read from its options before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lit_instruct.errors import UserError
from lit_instruct.fast.packing import enough_tokens
from lit_instruct.fast.short_attention import SHORT
from lit_instruct.models.dtype import DtypeName, choose_dtype
from lit_instruct.models.embedded import unpacked
from lit_instruct.models.loading import adapted_base
from lit_instruct.models.lora import LoraOptions
from lit_instruct.models.optimizers import OptimizerName
from lit_instruct.models.places import awaits_stage
from lit_instruct.models.quantised import Quantize
from lit_instruct.planning.activations import Attention
from lit_instruct.planning.shapes import ModelShape, config_of, shape_of

StageName = Literal["sft", "rm", "ppo"]
Options = Mapping[str, Any]
"""Option by dotted name, such as model.lora.r; without LoRA there is only model.lora, which is null."""
MOST_RESPONSES = 9
"""Most ranked responses per prompt (section 3.4: 4 to 9)."""


@dataclass(frozen=True)
class Rollouts:
    """How responses are sampled."""

    rows: int
    """Responses decoded in parallel."""
    prompt: int
    """Tokens of the longest prompt."""
    new: int
    """Most tokens per response."""
    kept_rows: int
    """Responses per iteration on one process."""
    value: Literal["reward_model", "zero_head", "policy_trunk"]
    shared_rewards: int
    """Reward models that are adapters on the policy's base."""
    average: bool
    """Whether a moving average of the policy is kept."""
    merged: bool
    """Whether decoding uses a copy of the weights with the adapter merged."""


@dataclass(frozen=True)
class Work:
    """What one process of a stage holds and computes."""

    stage: StageName
    model: ModelShape
    device: Literal["cpu", "cuda"]
    frozen_bytes: int
    """Bytes per number of frozen weights that are not quantised."""
    compute: int
    """Bytes per number in matrix products."""
    quantize: Quantize
    lora: LoraOptions | None
    optimizer: OptimizerName
    checkpointing: bool
    offloading: bool
    rows: int
    """Sequences in the largest pass with gradients."""
    length: int
    """Most tokens of each."""
    tokens: int
    """Tokens whose activations exist at the same time."""
    scored: int
    """Tokens that go through the output embedding."""
    passes: int
    """Forward and backward passes per optimizer step."""
    processes: int
    sharded: Literal["nothing", "states", "everything"]
    """What is sharded over the processes: optimizer states and gradients, or weights too."""
    attends: Attention
    """Kind of attention in a pass with gradients."""
    others: tuple[ModelShape, ...]
    """Reward models with their own base."""
    rollouts: Rollouts | None
    """None except in PPO."""
    packs_output: bool
    """Whether there may be a packed copy of a frozen output embedding."""


def read_work(stage: StageName, options: Options, device: Literal["cpu", "cuda"], base: str) -> Work:
    """Returns what a stage does.

    Args:
        stage: sft, rm or ppo.
        options: of model, data and trainer.
        device: where it will run.
        base: the model that the stage starts from: a named shape, hub id or folder.

    Raises:
        UserError: a model is unknown.
    """
    model, lora = shape_of(base), _lora(options)
    processes = processes_of(options)
    frozen = _frozen_bytes(options["model.dtype"], device, base)
    precision = str(options.get("trainer.precision") or "")
    compute = frozen if not precision else (2 if "16" in precision else 4)
    rewards = _rewards_of(stage, options)
    shared = lora is not None and bool(rewards) and all(_shares_base(reward, base) for reward in rewards)
    rows, length, tokens, passes = _batch(stage, options, processes, device)
    prompt = int(options.get("data.max_prompt_length", 0))
    short = device == "cpu" and compute == 2 and length <= SHORT
    shared_prefix = stage == "rm" and options["model.shared_prompt"] != "off"
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
        attends="shared_prefix" if shared_prefix else "short" if short else "whole",
        others=tuple(shape_of(name) for name in _reward_bases(options, [] if shared else rewards, base)),
        rollouts=_rollouts(options, processes, len(rewards) if shared else 0) if stage == "ppo" else None,
        packs_output=_packs_output(stage, options, frozen == compute and device == "cpu", lora is not None),
    )


def _packs_output(stage: StageName, options: Options, possible: bool, adapts: bool) -> bool:
    has_frozen = stage == "ppo" or (stage == "sft" and adapts)  # PPO's reference is always frozen
    return possible and has_frozen and bool(options["model.memory.pack_output"])


def _frozen_bytes(name: DtypeName, device: Literal["cpu", "cuda"], base: str) -> int:
    """Bytes per number of frozen weights; a GPU computes in bfloat16."""
    if name == "auto" and device == "cuda":
        name = "bfloat16"
    return choose_dtype(name, torch.device("cpu"), config_of(base)).dtype.itemsize


def _batch(stage: StageName, options: Options, processes: int, device: str) -> tuple[int, int, int, int]:
    """Rows and their length, tokens of the largest pass, and passes per optimizer step."""
    size = int(options["data.batch_size"])
    accumulated = int(options.get("trainer.accumulate_grad_batches") or 1)
    if stage == "sft":
        length = int(options["data.max_length"])
        return size, length, size * length, accumulated
    if stage == "rm":
        length = int(options["data.max_length"])
        whole = size * MOST_RESPONSES * length
        most = enough_tokens(int(options["model.max_tokens"]), device)
        tokens = max(length, min(most, whole))
        return max(1, tokens // length), length, tokens, accumulated * -(-whole // tokens)
    length = int(options["data.max_prompt_length"]) + int(options["model.sampling.max_new_tokens"])
    minibatch = -(-(responses_of(options) // processes or 1) // int(options["model.objective.minibatches"]))
    rows = min(int(options["model.memory.micro_batch_size"]), minibatch)
    rows = max(1, enough_tokens(rows * length, device) // length)
    return rows, length, rows * length, -(-minibatch // rows)


def responses_of(options: Options) -> int:
    """Returns the responses of an iteration of PPO over all processes."""
    return int(options["data.batch_size"]) * int(options["model.objective.responses_per_prompt"])


def _rollouts(options: Options, processes: int, shared_rewards: int) -> Rollouts:
    size = max(1, responses_of(options) // processes)
    return Rollouts(
        rows=min(int(options["model.memory.generation_batch_size"]), size),
        prompt=int(options["data.max_prompt_length"]),
        new=int(options["model.sampling.max_new_tokens"]),
        kept_rows=size,
        value=options["model.value.start"],
        shared_rewards=shared_rewards,
        average=options.get("model.optimizer.ema_decay") is not None,
        merged=bool(options["model.memory.merge_for_rollouts"]),
    )


def _lora(options: Options) -> LoraOptions | None:
    prefix = "model.lora."
    given = {name.removeprefix(prefix): value for name, value in options.items() if name.startswith(prefix)}
    return LoraOptions(**given) if given else None


def processes_of(options: Options) -> int:
    """Returns the number of processes of a stage; "auto" counts as one GPU per node."""
    devices, nodes = options.get("trainer.devices", 1), int(options.get("trainer.num_nodes") or 1)
    if isinstance(devices, list):
        return len(devices) * nodes
    text = str(devices)
    if text in ("auto", "-1", "None"):
        return nodes
    if not text.isdigit():
        return len(text.split(",")) * nodes
    return max(1, int(text)) * nodes


def _sharded(options: Options) -> Literal["nothing", "states", "everything"]:
    strategy = str(options.get("trainer.strategy.class_path") or options.get("trainer.strategy") or "").lower()
    stage = options.get("trainer.strategy.init_args.stage")
    if "modelparallel" in strategy or "fsdp" in strategy or "stage_3" in strategy or stage == 3:
        return "everything"
    return "states" if "deepspeed" in strategy else "nothing"


def _rewards_of(stage: StageName, options: Options) -> list[str]:
    """The reward models of PPO, several for an ensemble; none for a function and in the other stages."""
    name = options.get("model.reward.model")
    return str(name).split(",") if stage == "ppo" and name and not options.get("model.reward.function") else []


def _shares_base(reward: str, policy: str) -> bool:
    """Whether a reward model is an adapter on the policy's base, or will be one once its stage is trained."""
    if awaits_stage(reward, "rm"):
        return True
    own = adapted_base(reward)
    return own is not None and own == (adapted_base(policy) or unpacked(policy))


def _reward_bases(options: Options, rewards: list[str], policy: str) -> list[str]:
    """Models of which a stage holds a base of its own for rewards; a stage that is not trained yet is the policy's."""
    names = [*rewards, *(item["model"] for item in options.get("model.reward.further") or ())]
    names += [options.get("model.selection_reward")]
    return [policy if awaits_stage(str(name), "rm") else str(name) for name in names if name]


def trains_on(work: Work) -> str:
    """Returns in a few words what is trained on which base."""
    base = {"none": "bfloat16" if work.frozen_bytes == 2 else "float32"}.get(work.quantize, work.quantize)
    if work.lora is None:
        return "all weights, in float32"
    kind = "DoRA" if work.lora.dora else "LoRA"
    return f"{kind} of rank {work.lora.r} on a base in {base.replace('bit', ' bits')}"


def check_gpu_size(text: str) -> float:
    """Returns a GPU's memory in bytes: 24GB, 24 and 24GiB are 24 x 2^30.

    Raises:
        UserError: the text is not a size.
    """
    number = text.strip().upper().removesuffix("IB").removesuffix("B").removesuffix("G").strip()
    try:
        size = float(number)
    except ValueError:
        size = 0.0
    if not 0.5 <= size <= 1024:
        raise UserError(f"--gpu={text}: not the memory of a GPU; give it in GB, such as --gpu=24GB")
    return size * 2**30
