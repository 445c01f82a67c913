"""A device for which the host would have to wait, on machines that have none: a backend of PyTorch in name.

Tensors on it report the device "pretend:0" and hold their numbers on the CPU. Every operation on them goes
through `Recorder`, which runs it on the CPU and notes what CUDA would launch and where its host would wait.
It knows which tensor is on the device and which on the host; the same run on the CPU could not tell.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from mrcnn_plugin.ops import library

NAME = "pretend"

# What returns as many elements as the data says, or a number, so that the host has to know the data. The
# second column is how often: nms ends in a masked_select, encode_masks reads the length of its result.
_WAITS = {
    "aten::_local_scalar_dense": 1,
    "aten::equal": 1,
    "aten::is_nonzero": 1,
    "aten::nonzero": 1,
    "aten::masked_select": 1,
    "aten::_unique": 1,
    "aten::_unique2": 1,
    "aten::unique_dim": 1,
    "aten::unique_consecutive": 1,
    "aten::bincount": 1,
    "torchvision::nms": 1,
    "mrcnn_plugin::encode_masks": 1,
}
# Detectron2's wrappers of one function of PyTorch: their caller is the place.
_WRAPPERS = ("detectron2/layers/wrappers.py", "detectron2/layers/nms.py")
_INDEXING = {
    f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")
}
# Memory, views and bookkeeping: no kernel.
_FREE = {
    f"aten::{name}"
    for name in (
        "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "alias",
        "lift_fresh", "_reshape_alias", "_unsafe_view", "is_same_size", "_local_scalar_dense",
    )
}  # fmt: skip


@dataclass
class Record:
    """What one run made a device do.

    Attributes:
        waits: (what, where) -> how often the host waits for the device.
        launches: operation -> how often; each is one kernel or more.
    """

    waits: Counter[tuple[str, str]] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)


class Recorder(TorchDispatchMode):
    """Runs everything within the `with` on the CPU, and records it for tensors on the pretended device."""

    def __init__(self) -> None:
        super().__init__()
        self.record = Record()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = kwargs.get("device")
        on_device = _holds_device_tensor((args, kwargs)) if device is None else _is_pretend(device)
        name = func._schema.name
        what, count = _wait(name, args, kwargs, on_device)
        if count:
            self.record.waits[what, _place()] += count
        if on_device and name not in _FREE and not _is_view(func):
            self.record.launches[name] += 1
        out = func(*_to_cpu(args), **_to_cpu(kwargs))
        if func._schema.is_mutable and isinstance(args[0], DeviceTensor):
            if torch.Tag.inplace_view in func.tags:
                # The wrapper has a shape of its own, as well.
                with no_dispatch():
                    func(*args, **kwargs)
            return args[0]
        return tree_map_only(Tensor, DeviceTensor, out) if on_device else out


class DeviceTensor(Tensor):
    """A tensor on the pretended device; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> DeviceTensor:
        if isinstance(held, DeviceTensor):
            return held
        tensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
            requires_grad=requires_grad,
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        # The threads of the backward pass do not have the mode of the one that started it.
        with _current():
            return func(*args, **(kwargs or {}))

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError("can't convert a tensor of the device to numpy; use Tensor.cpu()")


_active: list[Recorder] = []
_lock = threading.Lock()


def _current() -> Recorder:
    return _active[-1] if _active else Recorder()


class recording:
    """`with recording() as record:` fills a Record; waits of a backward have the places of its forward."""

    def __enter__(self) -> Record:
        self._recorder, self._anomaly = Recorder(), torch.autograd.set_detect_anomaly(True, check_nan=False)
        _active.append(self._recorder)
        self._recorder.__enter__()
        return self._recorder.record

    def __exit__(self, *exception: object) -> None:
        self._recorder.__exit__(*exception)
        _active.pop()
        self._anomaly.__exit__()


_registered: list[torch.library.Library] = []


def install() -> torch.device:
    """Registers the device, once for the life of the process, and returns it."""
    if not _registered:
        _setup_privateuseone_for_python_backend(NAME)
        # PyTorch calls these three from C++ where no mode is asked: tensors made of Python's numbers.
        ops = torch.library.Library("aten", "IMPL")
        ops.impl("empty_strided", _empty_strided, "PrivateUse1")
        ops.impl("empty.memory_format", _empty, "PrivateUse1")
        ops.impl("_copy_from", _copy_from, "PrivateUse1")
        _registered.append(ops)
        library.STATUS[NAME] = None
    return torch.device(NAME, 0)


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return DeviceTensor(torch.empty_strided(size, stride, dtype=dtype))


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    memory_format = memory_format or torch.contiguous_format
    return DeviceTensor(torch.empty(size, dtype=dtype, memory_format=memory_format))


def _copy_from(source, target, non_blocking=False):
    if not non_blocking:
        to = "device" if isinstance(target, DeviceTensor) else "host"
        _current().record.waits[f"copy to the {to}", _place()] += 1
    getattr(target, "held", target).copy_(getattr(source, "held", source))
    return target


def _is_pretend(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == NAME


def _holds_device_tensor(tree: Any) -> bool:
    return tree_any(lambda leaf: isinstance(leaf, DeviceTensor), tree)


def _to_cpu(tree: Any) -> Any:
    tree = tree_map_only(DeviceTensor, lambda tensor: tensor.held, tree)
    return tree_map_only(torch.device, lambda _: torch.device("cpu"), tree)


def _is_view(func: torch._ops.OpOverload) -> bool:
    returns = func._schema.returns
    return any(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _wait(name: str, args: tuple, kwargs: dict, on_device: bool) -> tuple[str, int]:
    """What the host of a CUDA device waits for in this operation, and how often."""
    if name in ("aten::_to_copy", "aten::copy_"):
        return _copy(name, args, kwargs, on_device)
    if not _holds_device_tensor((args, kwargs)):
        return "", 0
    if name in _INDEXING:
        return _index(name, args)
    if name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        return "repeat_interleave without its size", 1
    count = _WAITS.get(name, 0)
    return name.split("::")[1].replace("_local_scalar_dense", "item"), count


def _copy(name: str, args: tuple, kwargs: dict, on_device: bool) -> tuple[str, int]:
    non_blocking = kwargs.get("non_blocking", False) or (len(args) > 2 and args[2])
    source = args[1] if name == "aten::copy_" else args[0]
    target = isinstance(args[0], DeviceTensor) if name == "aten::copy_" else on_device
    if isinstance(source, DeviceTensor) == target or non_blocking:
        return "", 0
    return f"copy to the {'device' if target else 'host'}", 1


def _index(name: str, args: tuple) -> tuple[str, int]:
    indices = [index for index in args[1] if index is not None]
    # A mask that one number is written through is a masked_fill.
    fills = len(args) > 2 and args[2].numel() == 1 and not (len(args) > 3 and args[3])
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
        return "boolean index", 1
    if any(not isinstance(index, DeviceTensor) for index in indices):
        return "index on the host", 1
    return "", 0


def _place() -> str:
    """file:line of the innermost frame outside PyTorch; within a backward, that of its forward."""
    frame = sys._getframe(2)
    while frame is not None:
        if not _is_torchs(frame.f_code.co_filename):
            return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    node = torch._C._current_autograd_node()
    lines = node.metadata.get("traceback_", []) if node is not None else []
    for line in reversed(lines):
        file, number = line.split('"')[1], line.split("line ")[1].split(",")[0]
        if not _is_torchs(file):
            return f"backward of {_short(file)}:{number}"
    return "backward"


def _is_torchs(file: str) -> bool:
    parts = Path(file).parts
    return (
        file == __file__
        or "torch" in parts
        or "torchvision" in parts
        or file.endswith(_WRAPPERS)
        or file.startswith("<")
        or (Path(file).name in ("threading.py", "contextlib.py"))
    )


def _short(file: str) -> str:
    parts = Path(file).parts
    for package in ("detectron2", "mrcnn_plugin", "fvcore", "timm"):
        if package in parts:
            return "/".join(parts[parts.index(package) :])
    return Path(file).name
