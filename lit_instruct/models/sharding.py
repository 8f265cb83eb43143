"""Weights sharded over the processes with FSDP2: sharding, running in step, and gathering them for a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from lit_instruct.collectives import largest
from lit_instruct.models.heads import ScoreHead

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Result = TypeVar("Result")
Item = TypeVar("Item")


def shard(model: nn.Module, mesh: DeviceMesh, compute: torch.dtype | None) -> None:
    """Shards a transformers model in place: each rank keeps a shard of every weight and gathers one layer at a time.

    Every rank must run it equally often, with its own `forward` or `inside` it.

    Args:
        model: causal language model or sequence classifier; each `ScoreHead` in it stays in float32.
        mesh: one-dimensional, over the processes.
        compute: dtype in which layers are gathered and computed; None is their own. Gradients are summed in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for layer in getattr(model, model.base_model_prefix).layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    for head in [module for module in model.modules() if isinstance(module, ScoreHead)]:
        shard_head(head, mesh)
    # Resharded after each forward: weights may be replaced before the next one.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    own_forward = model.forward

    def forward(*args: Any, work: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        return own_forward(*args, **kwargs) if work is None else work()

    model.forward = forward


def shard_head(head: ScoreHead, mesh: DeviceMesh) -> None:
    """Shards a float32 head over a one-dimensional mesh; it computes in float32 whatever the dtype of its decoder."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing here changes it in place
    fully_shard(head, mesh=mesh, reshard_after_forward=True)


def inside(model: nn.Module, work: Callable[[], Result]) -> Result:
    """Runs work that reads weights outside the layers of a model; FSDP2 gathers these only during its forward.

    The gradients of the tensors that `work` returns belong to this forward of the model.
    """
    sharded = isinstance(model, FSDPModule)  # named: the type checker would not let an FSDPModule be called
    return model(work=work) if sharded else work()


def is_sharded(model: nn.Module) -> bool:
    """Tells whether FSDP2 shards the weights: then every forward is a collective, and all ranks take part."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def most_of_all(model: nn.Module, *counts: int) -> list[int]:
    """Returns the maximum over the ranks of each count, such as the number of forwards that a rank will run.

    A collective if the model is sharded; otherwise the counts are returned as they are.
    """
    if not is_sharded(model):
        return list(counts)
    return largest(counts, next(model.parameters()).device)


def in_step(items: Sequence[Item], idle: Item, model: nn.Module) -> list[Item]:
    """Returns work for a model, preceded by idle work so that every rank has as many items as the busiest one.

    A collective if the model is sharded, as each of its forwards is; otherwise nothing is added. Idle work comes first,
    so that a result written for it is overwritten, and `[-len(items):]` are the results of the items.

    Args:
        items: of this rank.
        idle: an item whose result does not count.
        model: the model that runs them.
    """
    return [idle] * (most_of_all(model, len(items))[0] - len(items)) + list(items)


def whole_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """Returns the whole weights of a sharded model on rank 0, {} on other ranks (a collective); None if not sharded."""
    if not is_sharded(model):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_model_state_dict(model, options=options)
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}
    return {name: value for name, value in found.items() if name not in tied}


def load_whole_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Sets some weights of a sharded model from whole tensors, the same on every rank."""
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=False))
