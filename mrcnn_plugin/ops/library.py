"""Loads the native libraries that setup.py builds, and says which devices they serve.

`_C.so` holds the schemas and the CPU kernels, `_C_cuda.so` the CUDA kernels; the second is loaded only
where torch itself was built with CUDA. Where a library is missing, RoIAlign of averages runs on torchvision's
op, and the other ops on their PyTorch reference (`mrcnn_plugin.ops.reference`), which is slow: that is said
once per device type, with what is missing.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent.parent
#: device type -> its library.
FILES = {"cpu": _PACKAGE / "_C.so", "cuda": _PACKAGE / "_C_cuda.so"}


def _load(device_type: str) -> str | None:
    """Loads the library of `device_type`; returns why not, or None."""
    path = FILES[device_type]
    if device_type == "cuda" and torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not path.exists():
        return f"{path.name} was not built (a compiler was missing when mrcnn_plugin was installed)"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} could not be loaded: {error.__cause__ or error}"
    return None


#: device type -> why its library is not loaded; None where it is.
STATUS: dict[str, str | None] = {"cpu": _load("cpu")}
STATUS["cuda"] = _load("cuda") if STATUS["cpu"] is None else STATUS["cpu"]


@functools.cache
def _warn_once(device_type: str) -> None:
    reason = STATUS.get(device_type) or STATUS["cpu"] or f"no kernels exist for device type {device_type!r}"
    warnings.warn(
        f"mrcnn_plugin: native ops for {device_type} are not available: {reason}. torchvision's RoIAlign and "
        "PyTorch reference ops are used instead: same results, slower. To fix it, install a C++ compiler "
        "(and nvcc for CUDA) and reinstall with `pip install --no-build-isolation -e .`",
        stacklevel=4,
    )


def simd_level() -> str:
    """The instruction set that CPU kernels use now: "baseline", "avx2" or "avx512".

    It is the widest of the processor, or the one that the environment variable MRCNN_PLUGIN_SIMD names.

    Raises:
        RuntimeError: MRCNN_PLUGIN_SIMD names none that this processor has; every CPU op raises it, too.
    """
    return torch.ops.mrcnn_plugin.simd_level()


def native(device_type: str) -> bool:
    """Whether the native kernels for tensors on `device_type` ("cpu", "cuda", ...) are loaded.

    "meta" counts as native where the schemas are loaded: fake kernels then answer. Warns once a device
    type where they are not.
    """
    if STATUS["cpu"] is None and (device_type == "meta" or STATUS.get(device_type, "") is None):
        return True
    if not torch.compiler.is_compiling():
        _warn_once(device_type)
    return False
