"""Communication and step time of SFT on several GPUs, by arithmetic, to choose hardware before renting it.

Every collective of N GPUs is counted as a ring, in bytes sent per GPU: an all-gather or reduce-scatter of S bytes sends
(N-1)/N S, an all-reduce twice that (Rajbhandari et al. 2020, ZeRO, section 7). Nothing here was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_instruct.models.lora import LoraOptions
from lit_instruct.planning.shapes import shape_of
from lit_instruct.planning.weights import STATE_BYTES, adapter_sizes, base_bytes

Strategy = Literal["ddp-lora", "ddp-lora-nf4", "ddp", "zero2", "fsdp2"]
STRATEGIES: dict[Strategy, str] = {
    "ddp-lora": "DDP, LoRA, bf16 base",
    "ddp-lora-nf4": "DDP, LoRA, NF4 base",
    "ddp": "DDP, all weights",
    "zero2": "ZeRO-2, all weights",
    "fsdp2": "FSDP2 or ZeRO-3, all weights",
}
BF16, FP32 = 2, 4
"""Bytes per number."""


@dataclass(frozen=True)
class Cluster:
    """Nodes of GPUs: by default H100s with a 400 Gb/s network card each, at rates reached in practice."""

    per_node: int = 8
    flops: float = 990e12 * 0.4
    """Operations per second and GPU in bf16: 40 % of the peak."""
    inside: float = 350e9
    """Bytes per second that a GPU sends inside its node (NVLink; 450e9 nominal)."""
    between: float = 40e9
    """Bytes per second that a GPU sends to other nodes (50e9 nominal)."""
    memory: float = 80e9
    """Bytes per GPU."""

    def bandwidth(self, gpus: int) -> float:
        """Bytes per second of the slowest link in a ring of this many GPUs."""
        return self.inside if gpus <= self.per_node else self.between


@dataclass(frozen=True)
class Model:
    """The sizes of a model that communication depends on."""

    name: str
    parameters: float
    adapters: float
    """Parameters of its LoRA adapters."""
    base_nf4: float
    """Bytes of the base in 4 bits, with embeddings in bf16."""


def model_of(name: str, lora: LoraOptions = LoraOptions()) -> Model:
    """Returns the sizes of a model (a named shape such as llama-8b, a hub id or a folder) with LoRA."""
    shape = shape_of(name)
    return Model(name, shape.parameters, sum(adapter_sizes(shape, lora)), base_bytes(shape, "4bit", BF16))


@dataclass(frozen=True)
class Step:
    """One optimizer step of SFT on one of N GPUs."""

    state: float
    """Bytes of weights, gradients and optimizer states on a GPU."""
    sent: float
    """Bytes that a GPU sends."""
    sending: float
    """Seconds to send them."""
    computing: float
    """Seconds for matrix products."""
    decoding: float
    """Seconds per sampled token of PPO to gather the weights; 0 if every GPU has them all."""

    @property
    def shortest(self) -> float:
        """Seconds if communication and computation overlap fully."""
        return max(self.sending, self.computing)

    @property
    def longest(self) -> float:
        """Seconds without any overlap."""
        return self.sending + self.computing


def all_gather(size: float, gpus: int) -> float:
    """Returns the bytes that one of N GPUs sends in an all-gather or reduce-scatter of S bytes: (N - 1) / N S."""
    return (gpus - 1) / gpus * size


def sent_bytes(model: Model, strategy: Strategy, gpus: int, micro_batches: int = 1) -> float:
    """Returns the bytes that one of N GPUs sends per optimizer step, with P parameters of which T are trained.

    - DDP all-reduces the gradients once, in float32: 2 (N-1)/N 4 T.
    - ZeRO-2 reduce-scatters them and all-gathers the new weights in bf16: (N-1)/N (4 + 2) P.
    - FSDP2 and ZeRO-3 all-gather the weights in bf16 for every forward and every backward pass, and reduce-scatter
      gradients in float32: (N-1)/N (2 + 2 + 4) P per micro-batch.
    """
    if strategy in ("ddp-lora", "ddp-lora-nf4"):
        return 2 * all_gather(FP32 * model.adapters, gpus)
    if strategy == "ddp":
        return 2 * all_gather(FP32 * model.parameters, gpus)
    if strategy == "zero2":
        return all_gather((FP32 + BF16) * model.parameters, gpus)
    return micro_batches * all_gather((2 * BF16 + FP32) * model.parameters, gpus)


def state_bytes(model: Model, strategy: Strategy, gpus: int) -> float:
    """Returns the bytes of weights, gradients and AdamW's states that one of N GPUs holds.

    A trained number takes 4 + 4 + 8 bytes: float32 weight, gradient and two moments. ZeRO-2 keeps a bf16 copy of all
    weights on every GPU and shards the rest; FSDP2 shards everything.
    """
    trained = FP32 + FP32 + STATE_BYTES["adamw"]
    if strategy == "ddp-lora":
        return BF16 * model.parameters + trained * model.adapters
    if strategy == "ddp-lora-nf4":
        return model.base_nf4 + trained * model.adapters
    if strategy == "ddp":
        return trained * model.parameters
    if strategy == "zero2":
        return BF16 * model.parameters + trained * model.parameters / gpus
    return trained * model.parameters / gpus


def flops_per_token(model: Model, strategy: Strategy) -> float:
    """Returns the operations per token with activation checkpointing: 8 P, or 6 P if the base is frozen.

    2 P for the forward pass, 2 P to recompute it, 2 P for gradients of activations and 2 P for those of weights.
    """
    frozen = strategy in ("ddp-lora", "ddp-lora-nf4")
    return (6 if frozen else 8) * model.parameters


def step(
    model: Model,
    strategy: Strategy,
    gpus: int,
    cluster: Cluster = Cluster(),
    tokens: int = 16384,
    micro_batches: int = 2,
) -> Step:
    """Returns one optimizer step of SFT.

    Args:
        model: the model to train.
        strategy: how it is distributed.
        gpus: number of GPUs.
        cluster: speed and memory of the GPUs.
        tokens: per GPU and step; the global batch grows with the number of GPUs.
        micro_batches: forward and backward passes per step.
    """
    sent = sent_bytes(model, strategy, gpus, micro_batches)
    bandwidth = cluster.bandwidth(gpus)
    gathers = all_gather(BF16 * model.parameters, gpus) if strategy == "fsdp2" else 0.0
    return Step(
        state=state_bytes(model, strategy, gpus),
        sent=sent,
        sending=sent / bandwidth,
        computing=tokens * flops_per_token(model, strategy) / cluster.flops,
        decoding=gathers / bandwidth,
    )


MODELS = ("llama-8b", "llama-70b")
GPUS = (1, 8, 64)


def scaling_table(models: Sequence[Model], gpus: Sequence[int] = GPUS, cluster: Cluster = Cluster()) -> str:
    """Returns the Markdown table of docs/scaling.md: a row per model, strategy and number of GPUs."""
    lines = [
        "| model | strategy | GPUs | GB held | fits 80 GB | GB sent per step | s sending | s computing | s per step "
        "| ms gathering per sampled token |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for model in models:
        for strategy, name in STRATEGIES.items():
            for count in gpus:
                found = step(model, strategy, count, cluster)
                fits = "yes" if found.state <= 0.8 * cluster.memory else "no"  # the rest is for activations and logits
                both = f"{found.shortest:.2f}"
                if f"{found.longest:.2f}" != both:
                    both += f" to {found.longest:.2f}"
                lines.append(
                    f"| {model.name} | {name} | {count} | {found.state / 1e9:,.0f} | {fits} | {found.sent / 1e9:,.1f} "
                    f"| {found.sending:.2f} | {found.computing:.2f} | {both} | {1e3 * found.decoding:,.0f} |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    print(scaling_table([model_of(name) for name in MODELS]))
