"""Peak memory of a stage, by phase of a step and by part."""

from __future__ import annotations

from dataclasses import dataclass

from lit_instruct.fast.host_memory import KEPT_PRODUCTS
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
TRAINED = 4
"""Bytes of a trained number, and of its gradient."""
CONTEXT = {"cuda": 600 * 2**20, "cpu": 0}
"""Bytes that the device's driver and libraries hold outside the allocator."""
FRAGMENTED = {"cuda": 0.05, "cpu": 0.0}
"""Fraction that the allocator holds and cannot use."""
COMPILED = 700_000
"""Bytes that oneDNN caches per bfloat16 product on a CPU, measured; each decoding step adds two of a new length."""
COMPILED_IN_TRAINING = 300_000
"""The same per product of training, fitted to `python -m benchmarks.plan`; it is less than one product takes alone,
because not all of them exist when memory peaks."""
PRODUCTS = {"sft": 30, "rm": 75}
"""Products of training, counted for rows of one length; reward batches have five widths, with and without a shared
prefix."""
SCORED_TOKENS = 8192
"""Tokens per batch of a reward model with its own base (`rollouts.text_reward.BATCH_TOKENS`)."""
Parts = dict[str, int]


@dataclass(frozen=True)
class Memory:
    """Bytes of each part in each phase of a step, per process."""

    phases: dict[str, Parts]
    """rollout (PPO only), update and step -> part -> bytes."""

    @property
    def peak_phase(self) -> str:
        """The phase that takes the most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak(self) -> int:
        """Bytes of that phase."""
        return sum(self.phases[self.peak_phase].values())

    @property
    def allocated(self) -> int:
        """The peak without the reserve: what `torch.cuda.max_memory_allocated` would return."""
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
    """Bytes of the code that oneDNN compiles for products in bfloat16."""
    if work.rollouts is not None:
        return COMPILED * min(KEPT_PRODUCTS, 2 * work.rollouts.new)
    return COMPILED_IN_TRAINING * PRODUCTS[work.stage]


def _held(work: Work) -> Parts:
    """What every phase holds: weights and the optimizer's states."""
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
    """Bytes of all copies of all bases."""
    frozen = base_bytes(work.model, work.quantize, work.frozen_bytes, with_head=work.stage != "rm")
    frozen += work.frozen_bytes * work.model.hidden * work.model.vocabulary if work.packs_output else 0
    others = sum(base_bytes(shape, work.quantize, work.frozen_bytes, with_head=False) for shape in work.others)
    if work.lora is not None:
        return frozen + others
    trained = base_bytes(work.model, "none", TRAINED, with_head=work.stage != "rm")
    if work.rollouts is None:
        return trained + others
    networks = 1 if work.rollouts.value == "policy_trunk" else 2
    return networks * trained + frozen + others  # the reference is frozen


def _adapters(work: Work) -> int:
    """Bytes of all adapters and heads, trained or frozen, and of the adapters rounded for matrix products."""
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
    return 2 + value + work.rollouts.shared_rewards  # policy and SFT, value, reward


def policy_sizes(work: Work) -> list[int]:
    """Returns the size of each trained tensor of the language model."""
    if work.lora is not None:
        return adapter_sizes(work.model, work.lora)
    head = work.model.head_parameters if work.stage == "rm" else 0
    rest = work.model.parameters - work.model.linear_parameters - head
    return [linear.weights for linear in work.model.linears] + [rest]


def trained_sizes(work: Work) -> list[int]:
    """Returns the size of each trained tensor, including the value function's and the heads."""
    sizes = policy_sizes(work)
    if work.rollouts is not None and work.rollouts.value != "policy_trunk":
        sizes = sizes * 2
    return sizes + ([work.model.hidden] if work.stage != "sft" else [])


def _gradients(work: Work) -> int:
    kept = TRAINED * sum(trained_sizes(work)) // (work.processes if work.sharded != "nothing" else 1)
    copied = work.processes > 1 and work.sharded == "nothing"  # into DDP's communication buckets
    return kept * (2 if copied else 1)


def _update(work: Work) -> Parts:
    activations = update_bytes(
        work.model, work.compute, work.lora, work.tokens, work.checkpointing, work.offloading, work.attends
    )
    if work.stage == "sft" or work.attends == "shared_prefix":
        activations += attention_mask_bytes(work.rows, work.length, work.compute)
    logits = head_bytes(work.model, work.compute, work.scored, work.device) if work.scored else 0
    passing = work.tokens * passing_bytes(work.model, work.compute)
    prefix_in_bfloat16 = work.attends == "shared_prefix" and work.device == "cpu" and work.compute < TRAINED
    if work.attends == "short" or prefix_in_bfloat16:
        top_layers = work.lora.top_layers if work.lora is not None else 0
        layers = 1 if work.checkpointing else top_layers or work.model.layers
        activations += (layers + 2) * pair_bytes(work.model, work.compute, work.rows, work.length)  # 2 are temporary
    activations += max(0, passing - logits) + _workspace(work)  # the logits are freed before the layers' backward
    if work.lora is None and work.compute < TRAINED:  # autocast keeps the rounded weights until the pass ends
        activations += work.compute * work.model.parameters // (work.processes if work.sharded == "everything" else 1)
    if (
        work.rollouts is not None and work.lora is not None and work.lora.top_layers
    ):  # outputs of the frozen lower layers
        activations += work.rollouts.kept_rows * work.length * work.model.hidden * work.compute
    together = work.lora is not None or work.passes > 1 or work.rollouts is not None
    return _held(work) | {
        "gradients": _gradients(work) if together else 0,
        "activations": activations,
        "logits": logits,
    }


def _workspace(work: Work) -> int:
    """A layer's temporary weights: dequantised, gathered from other processes, or with their norms computed (DoRA)."""
    largest, extra = work.model.largest_linear, 0
    if work.quantize != "none":
        extra += largest * work.compute
    if work.lora is not None and work.lora.dora:
        extra += 2 * largest * TRAINED
    if work.sharded == "everything":
        extra += 2 * (work.model.linear_parameters // work.model.layers) * TRAINED
    return extra


def _step(work: Work) -> Parts:
    """The optimizer's step; on CUDA, AdamW updates all tensors of a group together, in one more copy of them."""
    sizes = policy_sizes(work)
    copied = sum(sizes) if work.device == "cuda" and work.optimizer == "adamw" else max(sizes)
    passing = TRAINED * copied // (work.processes if work.sharded != "nothing" else 1)
    return _held(work) | {"gradients": _gradients(work), "activations": passing}


def _rollout(work: Work) -> Parts:
    """Prefill, decoding, and scoring by reward models with their own bases."""
    rollouts, model = work.rollouts, work.model
    assert rollouts is not None
    read = rollouts.rows * rollouts.prompt * passing_bytes(model, work.compute)
    scored = max((SCORED_TOKENS * passing_bytes(shape, work.compute) for shape in work.others), default=0)
    return _held(work) | {
        "activations": max(read, scored) + _workspace(work),
        "merged": _merged(work),
        "kv_cache": cache_bytes(model, work.compute, rollouts.rows, rollouts.prompt, rollouts.new),
        "logits": decode_logits_bytes(model, work.compute, rollouts.rows),
    }


def _merged(work: Work) -> int:
    """Copies of the adapted layers with the adapter merged; quantised layers are not merged."""
    if work.lora is None or work.quantize != "none" or work.rollouts is None or not work.rollouts.merged:
        return 0
    return work.frozen_bytes * sum(linear.weights for linear in work.model.adapted(work.lora))
