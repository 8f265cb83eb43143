"""Weights in pieces over the processes, by FSDP2: cut up, run in step, and put together again for a file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from lit_instruct.models.heads import ScoreHead

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Result = TypeVar("Result")
Item = TypeVar("Item")


def shard(model: nn.Module, mesh: DeviceMesh, compute: torch.dtype | None) -> None:
    """Cuts up a transformers model in place: each process keeps a piece of every weight and gathers a layer at a time.

    Every process must run it equally often, by its own `forward` or `inside` it.

    Args:
        model: causal language model or sequence classifier; `ScoreHead`s in it stay in float32.
        mesh: one-dimensional, over the processes.
        compute: dtype in which layers are gathered and multiplied, None for their own; gradients are summed in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for layer in getattr(model, model.base_model_prefix).layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    for head in [module for module in model.modules() if isinstance(module, ScoreHead)]:
        shard_head(head, mesh)
    # Not kept whole after a forward: weights may be exchanged before the next one.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    own_forward = model.forward

    def forward(*args: Any, work: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        return own_forward(*args, **kwargs) if work is None else work()

    model.forward = forward


def shard_head(head: ScoreHead, mesh: DeviceMesh) -> None:
    """Shards a head, which computes in float32 whatever the dtype of its decoder.

    Args:
        head: in float32.
        mesh: one-dimensional, over the processes.
    """
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # which nothing here changes in place
    fully_shard(head, mesh=mesh, reshard_after_forward=True)


def inside(model: nn.Module, work: Callable[[], Result]) -> Result:
    """Runs work that reads the weights of a model's parts; FSDP2 holds those that are in no layer only in its forward.

    Args:
        model: a transformers model, cut up or not.
        work: returns tensors; whatever has gradients in them belongs to this forward of the model.
    """
    cut_up = isinstance(model, FSDPModule)
    return model(work=work) if cut_up else work()


def is_sharded(model: nn.Module) -> bool:
    """Tells whether FSDP2 holds the weights in pieces: then every forward is one that all ranks take part in."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def most_of_all(model: nn.Module, *counts: int) -> list[int]:
    """Returns the largest of each count over the processes where a model is cut up, the counts themselves elsewhere.

    All processes have to call it.

    Args:
        model: which is about to run.
        counts: of this process, such as the forwards to come.
    """
    if not is_sharded(model):
        return list(counts)
    found = torch.tensor(counts, device=next(model.parameters()).device)
    distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return found.tolist()


def in_step(items: Sequence[Item], idle: Item, model: nn.Module) -> list[Item]:
    """Returns work for a model, preceded by idle work so that every process has as much of it as the busiest one.

    Under FSDP2 every forward is a collective: all ranks take part. Idle work comes first, so that a result written for
    it is overwritten, and `[-len(items):]` are the results of the items. All processes have to call this function.

    Args:
        items: of this process.
        idle: an item whose result does not count.
        model: which will run them; nothing is added unless it is sharded.
    """
    return [idle] * (most_of_all(model, len(items))[0] - len(items)) + list(items)


def whole_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """Returns the whole weights of a cut-up model on rank 0, {} on others, None for other models.

    All processes must call it.
    """
    if not is_sharded(model):
        return None
    found: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}
    return {name: value for name, value in found.items() if name not in tied}


def load_whole_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Sets some weights of a cut-up model from whole ones, which every process has."""
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True, strict=False))
