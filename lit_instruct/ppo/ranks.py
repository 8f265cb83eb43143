"""Collectives of the processes of a PPO training: sums, and agreement on errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from lit_instruct.collectives import gather_objects
from lit_instruct.errors import UserError
from lit_instruct.losses.masked import Moments, masked_moments
from lit_instruct.models.sharding import is_sharded

Result = TypeVar("Result")


@dataclass
class Ranks:
    """The processes of a training; without a strategy there is one."""

    networks: nn.Module
    """Their forwards are collectives if FSDP2 shards them."""
    strategy: Strategy | None = None

    @property
    def count(self) -> int:
        """Number of processes."""
        return getattr(self.strategy, "world_size", 1)

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return getattr(self.strategy, "global_rank", 0)

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.strategy.root_device if self.strategy is not None else torch.device("cpu")

    @property
    def sharded(self) -> bool:
        """Whether every forward is a collective."""
        return is_sharded(self.networks)

    @property
    def gradient_scale(self) -> int:
        """Factor of a loss that makes up for FSDP2, which averages gradients over processes instead of summing them."""
        return self.count if self.sharded else 1

    def sum(self, values: Tensor) -> Tensor:
        """Returns the sum over all processes, on the CPU."""
        if self.count == 1 or self.strategy is None:
            return values
        return self.strategy.reduce(values.to(self.device).clone(), reduce_op="sum").cpu()

    def moments(self, parts: Sequence[Moments]) -> Moments:
        """Returns the moments of all parts of all processes together; those of the parts are on the CPU."""
        local = torch.stack([torch.stack(moment) for moment in parts]).sum(dim=0)
        return Moments(*self.sum(local))

    def masked_moments(self, values: Sequence[Tensor], masks: Sequence[Tensor]) -> Moments:
        """Returns the moments over all processes of each part's values, (B, R), where its mask, (B, R), is True."""
        on_host = zip(together_to_host(values), together_to_host(masks), strict=True)
        return self.moments([masked_moments(v, mask) for v, mask in on_host])

    def agree(self, work: Callable[[], Result]) -> Result:
        """Runs work; if it raises a `UserError` on one process, all processes raise one, so that none waits.

        Raises:
            UserError: this process's own, or one that points to another process's message.
        """
        mistake: UserError | None = None
        try:
            result = work()
        except UserError as error:
            mistake = error
        refused = mistake is not None
        if self.strategy is not None:
            refused = self.strategy.reduce_boolean_decision(refused, all=False)
        if refused:
            raise mistake or UserError("another process stopped, and its message says why")
        return result

    def gather(self, rows: Mapping[int, Result]) -> dict[int, Result]:
        """Returns the rows of all processes by their numbers, in ascending order."""
        everywhere = gather_objects(dict(rows), self.count) if self.count > 1 else [rows]
        return dict(sorted((number, row) for part in everywhere for number, row in part.items()))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Sums gradients over processes in one collective; a process without rows in the minibatch adds zeros."""
        if self.count == 1 or self.strategy is None or self.sharded:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = self.strategy.reduce(flat, reduce_op="sum")
        for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = piece.view_as(parameter)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Keeps DDP from averaging gradients: `sum_gradients` sums them once, after the last micro-batch."""
        no_sync = getattr(getattr(self.strategy, "model", None), "no_sync", nullcontext)
        with no_sync():
            yield


def together_to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns tensors of one dtype in host memory, copied in one piece: the host waits for the device once."""
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors]).cpu()
    pieces = flat.split([tensor.numel() for tensor in tensors])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)]
