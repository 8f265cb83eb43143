"""Weights in pieces over the processes, by FSDP2: cut up, and put together again for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(model: nn.Module, mesh: DeviceMesh, compute: torch.dtype) -> None:
    """Cuts up a transformers model in place: each process keeps a piece of every weight and gathers a layer at a time.

    Args:
        model: causal language model, in float32; every process must run it through its own `forward`.
        mesh: one-dimensional, over the processes.
        compute: dtype in which layers are gathered and multiplied; gradients are summed in float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for layer in getattr(model, model.base_model_prefix).layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def is_sharded(model: nn.Module) -> bool:
    """Tells whether FSDP2 holds the weights in pieces: then every forward is one that all ranks take part in."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


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
