"""Makes Lightning, transformers and PyTorch train on the pretended device where they ask for a real one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
import transformers
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from benchmarks.pretended_cuda import CUDA, INNER, NAME, CudaTensor, Pretended, is_cuda

NARROW = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "scaled_dot_product_attention")
WIDE = ("softmax.int", "log_softmax.int", "exp", "log", "pow.Tensor_Scalar", "rsqrt", "sum", "sum.dim_IntList", "prod")
WIDE += ("cumsum", "layer_norm", "norm.Scalar", "binary_cross_entropy_with_logits", "softplus", "reciprocal")
"""Operations that CUDA's autocast computes in its own dtype, and in float32; others take what they are given."""


def _autocast_kernel(name: str, wide: bool) -> Callable[..., Any]:
    """Returns an operation that casts its floating tensors as CUDA's autocast does."""
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    beneath = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.float32 if wide else torch.get_autocast_dtype(NAME)

        def cast(item: Any) -> Any:
            return item.to(dtype) if isinstance(item, Tensor) and item.is_floating_point() else item

        with torch._C._ExcludeDispatchKeyGuard(beneath):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run


def _register_autocast() -> list[torch.library.Library]:
    """Gives the pretended device CUDA's autocast: PyTorch has none for PrivateUse1."""
    everything, ours = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for names, wide in ((NARROW, False), (WIDE, True)):
        for name in names:
            ours.impl(name, _autocast_kernel(name, wide), "AutocastPrivateUse1")
    return [everything, ours]


KEPT = _register_autocast()


class Devices(TorchFunctionMode):
    """Says PrivateUse1 to C++ where Python says "cuda"."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0].to(INNER)
        if func in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor):
            return self._made(func, args, dict(kwargs))
        if func is not torch.device and func.__name__ not in ("__get__", "__set__"):
            args = tuple(_inner(argument) for argument in args)
            kwargs = {name: _inner(argument) for name, argument in kwargs.items()}
        return func(*args, **kwargs)

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """Returns a tensor of given values, moved to the device if it belongs there."""
        device = kwargs.pop("device", None)
        beside = any(isinstance(argument, CudaTensor) for argument in args[:1])
        goes = is_cuda(device) if device is not None else beside
        if func is torch.Tensor.new_tensor:
            kwargs.setdefault("dtype", args[0].dtype)
            func, args = torch.tensor, args[1:]
        if isinstance(args[0], Tensor):
            return args[0].to(INNER if goes else "cpu", kwargs.get("dtype") or args[0].dtype)
        made = func(*args, **kwargs)
        return made.to(INNER) if goes else made


def _inner(argument: Any) -> Any:
    named = isinstance(argument, torch.device) or (isinstance(argument, str) and argument.startswith("cuda"))
    return INNER if named and is_cuda(argument) else argument


@contextlib.contextmanager
def _on_the_host() -> Iterator[None]:
    """Runs without the modes, for libraries that fill tensors of the meta device."""
    if not torch._C._len_torch_function_stack():
        yield
        return
    mode = _pop_mode()
    try:
        with _disable_current_modes():
            yield
    finally:
        _push_mode(mode)


def _hosted(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with _on_the_host():
            return function(*args, **kwargs)

    return run


def _load(load: Callable[..., Any]) -> Callable[..., Any]:
    def run(file: Any, map_location: Any = None, **more: Any) -> Any:
        with _on_the_host():
            found = load(file, map_location="cpu", **more)
        goes = isinstance(map_location, str | torch.device) and is_cuda(map_location)
        return tree_map(lambda item: item.to(INNER) if isinstance(item, Tensor) else item, found) if goes else found

    return run


def _of_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a function of a device's autocast take "cuda" for the pretended device, which has CUDA's lists."""

    def run(device: Any = None, *args: Any, **kwargs: Any) -> Any:
        return function(NAME if device == "cuda" else device, *args, **kwargs) if device else function()

    return run


def _autocast(init: Callable[..., None]) -> Callable[..., None]:
    def run(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        init(self, NAME if device_type == "cuda" else device_type, *args, **kwargs)

    return run


def _without_swap(load: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        torch.__future__.set_swap_module_params_on_conversion(False)
        try:
            return load(self, *args, **kwargs)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(True)

    return run


def _on_cuda(init: Callable[..., None]) -> Callable[..., None]:
    def run(self: Any, device: Any = "cpu", *args: Any, **kwargs: Any) -> None:
        init(self, CUDA, *args, **kwargs)

    return run


def _connected(connect: Callable[..., None]) -> Callable[..., None]:
    """Connects the processes over gloo, whose collectives the device checks as NCCL does."""

    def run(*args: Any, device_id: Any = None, **kwargs: Any) -> None:
        connect(*args, **kwargs)

    return run


@contextlib.contextmanager
def pretend() -> Iterator[Pretended]:
    """Makes trainings with `--trainer.accelerator=cpu` ones on the pretended device."""
    opened = transformers.PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    cards = staticmethod(lambda devices: [CUDA] * int(devices))
    patches = [
        patch("torch.cuda._lazy_init", lambda: None),
        patch("torch.cuda.current_device", lambda: 0),
        patch("torch.cuda.get_device_name", lambda device=None: "pretended"),
        patch("torch.load", _load(torch.load)),
        patch("torch.is_autocast_enabled", _of_autocast(torch.is_autocast_enabled)),
        patch("torch.get_autocast_dtype", _of_autocast(torch.get_autocast_dtype)),
        patch("torch.amp.autocast_mode.autocast.__init__", _autocast(torch.amp.autocast_mode.autocast.__init__)),
        patch("torch.distributed.init_process_group", _connected(torch.distributed.init_process_group)),
        patch.object(transformers.PreTrainedModel, "from_pretrained", classmethod(_hosted(opened))),
        patch.object(torch.nn.Module, "load_state_dict", _without_swap(torch.nn.Module.load_state_dict)),
        patch.object(CPUAccelerator, "setup_device", lambda self, device: None),
        patch.object(CPUAccelerator, "get_parallel_devices", cards),
        patch.object(SingleDeviceStrategy, "__init__", _on_cuda(SingleDeviceStrategy.__init__)),
        patch.object(DDPStrategy, "determine_ddp_device_ids", lambda self: None),
        patch.object(DDPStrategy, "_get_process_group_backend", lambda self: "gloo"),
    ]
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for one in patches:
            stack.enter_context(one)
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with Devices(), Pretended() as mode:
                yield mode
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)
