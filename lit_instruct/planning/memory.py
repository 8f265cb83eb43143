"""Peak memory of a stage by part: the phases of a step, and what each holds."""

from __future__ import annotations

from dataclasses import dataclass

from lit_instruct.fast.host_memory import KEPT_PRODUCTS
from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.activations import (
    attention_mask_bytes,
    cache_bytes,
    decode_logits_bytes,
    head_bytes,
    pair_bytes,
    passing_bytes,
    update_bytes,
)
from lit_instruct.planning.weights import adapter_sizes, base_bytes, optimizer_bytes
from lit_instruct.planning.work import Work

PARTS = ("base", "adapters", "gradients", "optimizer", "activations", "merged", "kv_cache", "logits", "reserve")
NAMES = {
    "base": "base",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "merged": "merged weights of the rollout",
    "kv_cache": "KV cache of the rollout",
    "logits": "logits",
    "reserve": "reserve",
}
TRAINED = 4
"""Bytes of a trained number, and of its gradient."""
CONTEXT = {"cuda": 600 * 2**20, "cpu": 0}
"""What the device's driver and libraries hold outside the allocator."""
FRAGMENTED = {"cuda": 0.05, "cpu": 0.0}
"""Share that the allocator holds and cannot use."""
COMPILED = 700_000
"""Bytes that oneDNN keeps of a product in bfloat16 on a CPU, measured; a step of decoding makes two of a new length."""
COMPILED_IN_TRAINING = 300_000
"""The same of a product of training: fitted to what `python -m benchmarks.plan` measures, and less than one takes by
itself, as not all of them are there when most memory is held."""
PRODUCTS = {"sft": 30, "rm": 75}
"""Counted for rows of one length; reward batches have five widths of them, with prompts shared and without."""
SCORED_TOKENS = 8192
"""Tokens that a reward model with a base of its own reads at one time (`rollouts.text_reward.BATCH_TOKENS`)."""
Parts = dict[str, int]


@dataclass(frozen=True)
class Memory:
    """Bytes of each part in each phase of a step, on one process."""

    phases: dict[str, Parts]
    """rollout (PPO alone), update and step -> part -> bytes."""

    @property
    def peak_phase(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak(self) -> int:
        """Bytes of that phase."""
        return sum(self.phases[self.peak_phase].values())

    @property
    def allocated(self) -> int:
        """The same without the reserve: what `torch.cuda.max_memory_allocated` would say."""
        return self.peak - self.phases[self.peak_phase]["reserve"]


def memory_of(work: Work) -> Memory:
    """Returns the memory of a stage."""
    phases = {"update": _update(work), "step": _step(work)}
    if work.rollouts is not None:
        phases = {"rollout": _rollout(work), **phases}
    return Memory({name: _with_reserve(work, parts) for name, parts in phases.items()})


def _with_reserve(work: Work, parts: Parts) -> Parts:
    reserve = CONTEXT[work.device] + int(FRAGMENTED[work.device] * sum(parts.values()))
    reserve += _compiled(work) if work.device == "cpu" and work.compute < TRAINED else 0
    return {part: parts.get(part, 0) for part in PARTS[:-1]} | {"reserve": reserve}


def _compiled(work: Work) -> int:
    """Bytes of the code that oneDNN makes for products in bfloat16."""
    if work.rollouts is not None:
        return COMPILED * min(KEPT_PRODUCTS, 2 * work.rollouts.new)
    return COMPILED_IN_TRAINING * PRODUCTS[work.stage]


def _held(work: Work) -> Parts:
    """What is there in every phase: weights and the optimizer's states."""
    sizes = trained_sizes(work)
    states = optimizer_bytes(work.optimizer, sizes)
    averaged = TRAINED * sum(policy_sizes(work)) if work.rollouts is not None and work.rollouts.average else 0
    shared = work.processes if work.sharded == "everything" else 1
    states //= work.processes if work.sharded != "nothing" else 1
    return {
        "base": _bases(work) // shared,
        "adapters": _adapters(work) // shared,
        "optimizer": states + averaged // shared,
    }


def _bases(work: Work) -> int:
    """Bytes of all copies of a base."""
    frozen = base_bytes(work.model, work.quantize, work.frozen_bytes, with_head=work.stage != "rm")
    others = sum(base_bytes(shape, work.quantize, work.frozen_bytes, with_head=False) for shape in work.others)
    if work.lora is not None:
        return frozen + others
    trained = base_bytes(work.model, "none", TRAINED, with_head=work.stage != "rm")
    if work.rollouts is None:
        return trained + others
    networks = 1 if work.rollouts.value == "policy_trunk" else 2
    return networks * trained + frozen + others  # the reference is frozen


def _adapters(work: Work) -> int:
    """Bytes of all adapters and heads, trained or frozen, and of adapters rounded for the products."""
    head = TRAINED * work.model.hidden * (0 if work.stage == "sft" else 2)
    if work.lora is None:
        return head
    one = sum(adapter_sizes(work.model, work.lora))
    rounded = one * work.compute if work.compute < TRAINED else 0
    return head + TRAINED * one * _adapter_count(work) + rounded


def _adapter_count(work: Work) -> int:
    if work.rollouts is None:
        return 1
    value = 0 if work.rollouts.value == "policy_trunk" else 1
    return 2 + value + (1 if work.rollouts.shared_reward else 0)  # policy and SFT, value, reward


def policy_sizes(work: Work) -> list[int]:
    """Numbers of each trained tensor of the language model."""
    if work.lora is not None:
        return adapter_sizes(work.model, work.lora)
    rest = work.model.parameters - work.model.linear_parameters - (work.model.head_parameters if _is_rm(work) else 0)
    return [linear.weights for linear in work.model.linears] + [rest]


def _is_rm(work: Work) -> bool:
    return work.stage == "rm"


def trained_sizes(work: Work) -> list[int]:
    """Numbers of each trained tensor, the value function's too."""
    sizes = policy_sizes(work)
    if work.rollouts is not None and work.rollouts.value != "policy_trunk":
        sizes = sizes * 2
    return sizes + ([work.model.hidden] if work.stage != "sft" else [])


def _gradients(work: Work) -> int:
    kept = TRAINED * sum(trained_sizes(work)) // (work.processes if work.sharded != "nothing" else 1)
    copied = work.processes > 1 and work.sharded == "nothing"  # into what is sent to the other processes
    return kept * (2 if copied else 1)


def _update(work: Work) -> Parts:
    activations = update_bytes(
        work.model, work.compute, work.lora, work.tokens, work.checkpointing, work.offloading, work.attends
    )
    if work.stage == "sft" or work.attends == "branches":
        activations += attention_mask_bytes(work.rows, work.length, work.compute)
    logits = head_bytes(work.model, work.compute, work.scored, work.device) if work.scored else 0
    passing = work.tokens * passing_bytes(work.model, work.compute)
    branches_in_bfloat16 = work.attends == "branches" and work.device == "cpu" and work.compute < TRAINED
    if work.attends == "short" or branches_in_bfloat16:
        layers = 1 if work.checkpointing else _kept_layers(work)
        activations += (layers + 2) * pair_bytes(work.model, work.compute, work.rows, work.length)  # 2 in passing
    activations += max(0, passing - logits) + _workspace(work)  # the backward pass comes to the layers after the logits
    if work.lora is None and work.compute < TRAINED:  # autocast keeps the rounded weights until the pass is over
        activations += work.compute * work.model.parameters // (work.processes if work.sharded == "everything" else 1)
    if work.rollouts is not None and work.lora is not None and work.lora.top_layers:  # the trunk's output is kept
        activations += work.rollouts.kept_rows * work.length * work.model.hidden * work.compute
    together = work.lora is not None or work.passes > 1 or work.rollouts is not None
    return _held(work) | {
        "gradients": _gradients(work) if together else 0,
        "activations": activations,
        "logits": logits,
    }


def _kept_layers(work: Work) -> int:
    return (work.lora.top_layers if work.lora is not None else 0) or work.model.layers


def _workspace(work: Work) -> int:
    """A layer's weights as they are multiplied: dequantised, gathered from other processes, or measured (DoRA)."""
    largest, extra = work.model.largest_linear, 0
    if work.quantize != "none":
        extra += largest * work.compute
    if work.lora is not None and work.lora.dora:
        extra += 2 * largest * TRAINED
    if work.sharded == "everything":
        extra += 2 * (work.model.linear_parameters // work.model.layers) * TRAINED
    return extra


def _step(work: Work) -> Parts:
    """The optimizer's step; on CUDA, AdamW computes all tensors of a group together, in one more copy of them."""
    sizes = policy_sizes(work)
    copied = sum(sizes) if work.device == "cuda" and work.optimizer == "adamw" else max(sizes)
    passing = TRAINED * copied // (work.processes if work.sharded != "nothing" else 1)
    return _held(work) | {"gradients": _gradients(work), "activations": passing}


def _rollout(work: Work) -> Parts:
    """Reading the prompts, decoding, and scoring by reward models with bases of their own."""
    rollouts, model = work.rollouts, work.model
    assert rollouts is not None
    read = rollouts.rows * rollouts.prompt * passing_bytes(model, work.compute)
    scored = max((SCORED_TOKENS * passing_bytes(shape, work.compute) for shape in work.others), default=0)
    return _held(work) | {
        "activations": max(read, scored) + _workspace(work),
        "merged": _merged(work, work.lora),
        "kv_cache": cache_bytes(model, work.compute, rollouts.rows, rollouts.prompt, rollouts.new),
        "logits": decode_logits_bytes(model, work.compute, rollouts.rows),
    }


def _merged(work: Work, lora: LoraOptions | None) -> int:
    """The adapted layers with the adapter folded in, beside the ones without it; quantised ones stay as they are."""
    if lora is None or work.quantize != "none" or work.rollouts is None or not work.rollouts.merged:
        return 0
    return work.frozen_bytes * sum(linear.weights for linear in work.model.adapted(lora))
