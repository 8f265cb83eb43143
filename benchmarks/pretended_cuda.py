"""A pretended CUDA device: tensors that say `cuda:0` and compute on the host, with CUDA's rules and a count of waits.

Inside `pretend()`, tensors of device "cuda" are `CudaTensor`s. What CUDA refuses is refused: operands on different
devices (except 0-dimensional host tensors in elementwise operations, and host indices), and host tensors in
collectives, as NCCL does. What makes the host wait for the device, copies to the device, and products in float32 are
counted by the function of ours that they come from.

To C++ these tensors are of PrivateUse1, whose Python backend has the device guard that the backward pass needs; to
Python they are of "cuda:0". PyTorch's FakeTensorMode does not serve: without CUDA its backward pass aborts the
process, and `.item()` has no value.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
"""PrivateUse1's name."""
CUDA, INNER, HOST = torch.device("cuda:0"), torch.device("privateuseone:0"), torch.device("cpu")
OURS = ("/lit_instruct/", "/data_modules/")
aten = torch.ops.aten
MAY_MIX = {aten._to_copy.default, aten.copy_.default, aten.set_.source_Tensor, aten.lift_fresh.default}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
WAITING = {
    "aten._local_scalar_dense.default": "item",
    "aten.nonzero.default": "nonzero",
    "aten.equal.default": "equal",
    "aten.masked_select.default": "masked_select",
    "aten._unique2.default": "unique",
    "aten.unique_dim.default": "unique",
    "aten.is_nonzero.default": "bool",
    "aten.repeat_interleave.Tensor": "repeat_interleave",
    "aten.bincount.default": "bincount",
}
"""Operations that the host waits for: it needs a value, or the size of the result."""
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_attention_math"}
ELEMENTWISE = {"add", "sub", "mul", "div", "where", "masked_fill", "fill", "clamp", "lerp", "pow", "copy", "maximum"}
ELEMENTWISE |= {"eq", "ne", "lt", "le", "gt", "ge", "minimum", "_foreach_mul", "_foreach_add", "_foreach_div"}


class RefusedError(RuntimeError):
    """What CUDA or NCCL would refuse."""


class _Backend(_DummyBackendModule):
    """What PyTorch asks a backend's module for."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Any, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def is_cuda(device: Any) -> bool:
    """Tells whether a device is the pretended one, by either name; None is not."""
    return device is not None and torch.device(device).type in ("cuda", NAME, "privateuseone")


class CudaTensor(torch.Tensor):
    """A tensor of the pretended device; its numbers are in `raw`, on the host."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> CudaTensor:
        """Wraps a host tensor."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, raw.stride(), raw.storage_offset(), dtype=raw.dtype, device=INNER, requires_grad=False
        )
        made.raw = raw
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def get_device(self) -> int:
        """The number of the card."""
        return 0

    def untyped_storage(self) -> Any:
        """The memory that holds the numbers."""
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        """Its address."""
        return self.raw.data_ptr()

    @property
    def data(self) -> Tensor:
        """The tensor without its graph."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, CudaTensor):
            raise RefusedError("data of a tensor on the device is set to a tensor on the host")
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.raw = value.raw

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CudaTensor({self.raw})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        copied: Tensor = CudaTensor(self.raw.clone())
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A checkpoint has host tensors, as one that is loaded with `map_location="cpu"`."""
        return self.raw.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__):
            running().waits[f"tolist {running().place()}"] += running().counting
            return func(args[0].raw.detach(), *args[1:])
        to_device = func is torch.Tensor.to and len(args) == 2 and not set(kwargs) - {"non_blocking"}
        if to_device and isinstance(args[1], str | torch.device) and is_cuda(args[1]):
            return args[0]
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return running().run(func, args, kwargs or {})


_running: list[Pretended] = []


def running() -> Pretended:
    """Returns the pretended device that is in use."""
    return _running[-1]


class Pretended(TorchDispatchMode):
    """Runs operations, refuses what CUDA refuses, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.counting = True
        self.waits: Counter[str] = Counter()
        """"kind file:function" of what the host waited for."""
        self.copies: Counter[str] = Counter()
        """"file:function" of copies from the host."""
        self.wide: Counter[str] = Counter()
        """"file:function" of products in float32 under autocast."""
        self.refused: Counter[str] = Counter()

    def __enter__(self) -> Any:
        _running.append(self)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        _running.pop()

    def place(self) -> str:
        """Returns "file:function" of ours that is running; the backward pass and libraries have none."""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            for part in OURS:
                if part in code.co_filename and "site-packages" not in code.co_filename:
                    return f"{part[1:]}{code.co_filename.rpartition(part)[2]}:{code.co_name}"
            frame = frame.f_back  # type: ignore[assignment]
        return "libraries"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Runs an operation on the host; its result is on the device if its operands are, or if it says so."""
        tensors = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, Tensor)]
        device = [item for item in tensors if isinstance(item, CudaTensor)]
        host = [item for item in tensors if not isinstance(item, CudaTensor)]
        name = str(func)
        self.check(func, name, args, device, host)
        if func is aten._fused_sdp_choice.default:
            return 0
        goes = self.count(func, name, args, kwargs, device, host)
        inner = {key: value for key, value in tree_map(_on_host, kwargs).items() if key != "pin_memory"}
        result = func(*tree_map(_on_host, args), **inner)
        if not goes or name.startswith("c10d."):
            return result
        wrapped = tree_map(lambda item: CudaTensor(item) if type(item) is Tensor else item, result)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if device else wrapped

    def check(self, func: Any, name: str, args: Any, device: list[Any], host: list[Any]) -> None:
        """Refuses an operation that CUDA or NCCL refuses."""
        wrong = []
        if name.startswith("c10d."):
            objects = sys._getframe(0)  # torch moves pickled objects to the card itself
            while objects is not None and "object" not in objects.f_code.co_name:
                objects = objects.f_back  # type: ignore[assignment]
            if host and not device and "barrier" not in name and objects is None:
                wrong = ["NCCL takes no host tensors"]
        elif device and host and func in INDEXING:
            values = args[2:3]
            if not isinstance(args[0], CudaTensor) or any(v.dim() and not isinstance(v, CudaTensor) for v in values):
                wrong = ["values and indexed tensor on two devices"]
        elif device and host and func not in MAY_MIX:
            elementwise = torch.Tag.pointwise in func.tags or name.split(".")[1].rstrip("_") in ELEMENTWISE
            wrong = [f"host tensor of shape {tuple(t.shape)}" for t in host if t.dim() or not elementwise]
        if wrong:
            self.refused[f"{name} {self.place()}: {wrong[0]}"] += 1
            raise RefusedError(f"Expected all tensors to be on the same device: {name} {self.place()}: {wrong[0]}")

    def count(self, func: Any, name: str, args: Any, kwargs: Any, device: list[Any], host: list[Any]) -> bool:
        """Counts what an operation waits for or copies; returns whether its result is on the device."""
        target = kwargs.get("device")
        goes = is_cuda(target) if target is not None else bool(device)
        if func is aten.copy_.default:
            goes = isinstance(args[0], CudaTensor)
        if not device and not goes:
            return False
        waits, copies = WAITING.get(name, ""), bool(host) and goes and func in MAY_MIX
        if func in INDEXING and device:
            indices = [index for index in args[1] if index is not None]
            waits = "boolean index" if any(index.dtype == torch.bool for index in indices) else ""
            copies = bool(host)
        elif func in MAY_MIX and device and not goes:
            waits = "to host"
        if self.counting:
            self.waits[f"{waits} {self.place()}"] += bool(waits)
            self.copies[self.place()] += copies
            operands = [tensor for tensor in device if tensor.dim() > 1]
            if name.split(".")[1] in PRODUCTS and torch.is_autocast_enabled(NAME):
                self.wide[self.place()] += any(operand.dtype == torch.float32 for operand in operands)
        return goes


def _on_host(item: Any) -> Any:
    if isinstance(item, CudaTensor):
        return item.raw
    return HOST if isinstance(item, torch.device) and is_cuda(item) else item


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return CudaTensor(torch.empty_strided(size, stride, dtype=dtype or torch.float32))


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return CudaTensor(torch.empty(size, dtype=dtype or torch.float32))


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    getattr(to, "raw", to).copy_(getattr(source, "raw", source))
    return to


def _register() -> tuple[ModuleType, torch.library.Library]:
    """Makes PrivateUse1 the pretended device; the threads of the backward pass know no mode."""
    backend: Any = _Backend()
    _setup_privateuseone_for_python_backend(NAME, backend_module=backend)
    library = torch.library.Library("aten", "IMPL")
    made: dict[str, Callable[..., Tensor]] = {
        "empty_strided": _empty_strided,
        "empty.memory_format": _empty,
        "_copy_from": _copy_from,
    }
    for name, function in made.items():
        library.impl(name, function, "PrivateUse1")
    return backend, library


KEPT = _register()
