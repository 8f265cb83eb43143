"""What the GPUs of a training send each other, and how long a step takes: arithmetic for choosing before renting.

Every collective of N GPUs is counted as a ring, in bytes that one GPU sends: an all-gather or reduce-scatter of S bytes
sends (N-1)/N S, an all-reduce twice that (Rajbhandari et al. 2020, ZeRO, section 7). Nothing here was measured.
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
"""Bytes of a number."""


@dataclass(frozen=True)
class Cluster:
    """GPUs in nodes: by default H100s with a 400 Gb/s network card each, at what is reached in practice."""

    per_node: int = 8
    flops: float = 990e12 * 0.4
    """Operations a second of one GPU in bf16: the peak times 40 % of it."""
    inside: float = 350e9
    """Bytes a second that a GPU sends inside its node (NVLink, of 450)."""
    between: float = 40e9
    """Bytes a second that a GPU sends to other nodes (of 50)."""
    memory: float = 80e9
    """Bytes of a GPU."""

    def bandwidth(self, gpus: int) -> float:
        """Bytes a second of the slowest link in a ring of so many GPUs."""
        return self.inside if gpus <= self.per_node else self.between


@dataclass(frozen=True)
class Model:
    """A model as far as communication goes."""

    name: str
    parameters: float
    adapters: float
    """Trained numbers of its LoRA."""
    base_nf4: float
    """Bytes of its base in 4 bits, embeddings in bf16."""


def model_of(name: str, lora: LoraOptions = LoraOptions()) -> Model:
    """Returns a model with LoRA, by the sizes that `lit-instruct plan` takes.

    Args:
        name: named shape such as llama-8b, hub id or folder.
        lora: adapter options.
    """
    shape = shape_of(name)
    return Model(name, shape.parameters, sum(adapter_sizes(shape, lora)), base_bytes(shape, "4bit", BF16))


@dataclass(frozen=True)
class Step:
    """One optimizer step of SFT on one of N GPUs."""

    state: float
    """Bytes that a GPU holds without activations: weights, gradients, optimizer."""
    sent: float
    """Bytes that a GPU sends."""
    sending: float
    """Seconds of it."""
    computing: float
    """Seconds of the matrix products."""
    decoding: float
    """Seconds that a sampled token of PPO waits for weights to be gathered; 0 where every GPU has them all."""

    @property
    def shortest(self) -> float:
        """Seconds where sending hides behind computing, as the strategies try."""
        return max(self.sending, self.computing)

    @property
    def longest(self) -> float:
        """Seconds where nothing is hidden."""
        return self.sending + self.computing


def all_gather(size: float, gpus: int) -> float:
    """Returns the bytes that one GPU sends in an all-gather, or a reduce-scatter: (N - 1) / N S.

    Args:
        size: S, bytes of the whole.
        gpus: N.
    """
    return (gpus - 1) / gpus * size


def sent_bytes(model: Model, strategy: Strategy, gpus: int, micro_batches: int = 1) -> float:
    """Returns the bytes that one GPU sends in an optimizer step.

    DDP all-reduces the gradients of what is trained once, in float32: 2 (N-1)/N 4 T. ZeRO-2 reduce-scatters them and
    all-gathers the new weights, in bf16: (N-1)/N (4 + 2) P. FSDP2 and ZeRO-3 all-gather the weights, in bf16, for every
    forward and again for every backward pass, and reduce-scatter gradients in float32: (N-1)/N (2 + 2 + 4) P for each
    micro-batch.

    Args:
        model: P parameters, T of adapters.
        strategy: how they lie on the GPUs.
        gpus: N.
        micro_batches: forward and backward passes of a step.
    """
    if strategy in ("ddp-lora", "ddp-lora-nf4"):
        return 2 * all_gather(FP32 * model.adapters, gpus)
    if strategy == "ddp":
        return 2 * all_gather(FP32 * model.parameters, gpus)
    if strategy == "zero2":
        return all_gather((FP32 + BF16) * model.parameters, gpus)
    return micro_batches * all_gather((2 * BF16 + FP32) * model.parameters, gpus)


def state_bytes(model: Model, strategy: Strategy, gpus: int) -> float:
    """Returns the bytes of weights, gradients and AdamW's states that one GPU holds.

    Trained numbers take 4 + 4 + 8 bytes: float32 weights, gradients and two moments. ZeRO-2 keeps a bf16 copy of all
    weights whole and cuts the rest in N; FSDP2 cuts all of it.
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
    """Returns operations a token with activations recomputed: 8 P, and 6 P where the base is frozen.

    2 P forward, again 2 P, backward 2 P for the activations and 2 P for trained weights.
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
        model: what is trained.
        strategy: how it lies on the GPUs.
        gpus: how many there are.
        cluster: what they are.
        tokens: of one GPU in a step; the global batch grows with the GPUs.
        micro_batches: forward and backward passes in which it computes them.
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
    """Returns the Markdown table of docs/scaling.md: a line for each model, strategy and number of GPUs."""
    lines = [
        "| model | strategy | GPUs | GB held | fits 80 GB | GB sent a step | s sending | s computing | s a step "
        "| ms of gathering a sampled token |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for model in models:
        for strategy, name in STRATEGIES.items():
            for count in gpus:
                found = step(model, strategy, count, cluster)
                # A fifth is left for activations, logits and the allocator.
                fits = "yes" if found.state <= 0.8 * cluster.memory else "no"
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
