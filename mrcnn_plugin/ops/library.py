"""Loads the native libraries that setup.py builds, and says which devices they serve.

`_C.so` holds the schemas and the CPU kernels, `_C_cuda.so` the CUDA kernels; the second is loaded only
where torch itself was built with CUDA. Where a library is missing, RoIAlign of averages runs on torchvision's
op, and the other ops on their PyTorch reference (`mrcnn_plugin.ops.reference`), which is slow: that is said
once per device type, with what is missing.

A library that was built from other sources than those beside it, and whose ops are not theirs, is refused by
every op.

The first CUDA call of a process compares the CUDA kernels with the CPU's on tiny inputs (`self_check`) and
raises where they disagree. MRCNN_PLUGIN_CUDA=0 in the environment does without the CUDA kernels, and
MRCNN_PLUGIN_LIBRARIES=FOLDER takes the libraries from there, such as those built with sanitizers.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from pathlib import Path

import torch

from mrcnn_plugin.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent
#: The environment variable that, set to 0, switches the CUDA kernels off.
CUDA_SWITCH = "MRCNN_PLUGIN_CUDA"
#: The environment variable that names another folder of libraries.
LIBRARIES = "MRCNN_PLUGIN_LIBRARIES"
_FOLDER = Path(os.environ.get(LIBRARIES) or _PACKAGE)
#: device type -> its library.
FILES = {"cpu": _FOLDER / "_C.so", "cuda": _FOLDER / "_C_cuda.so"}
#: Every op's schema, in a checkout; a wheel has only what was built from it.
SCHEMAS = _PACKAGE.parent / "csrc" / "ops.cpp"


def _load(device_type: str) -> str | None:
    """Loads the library of `device_type`; returns why not, or None."""
    path = FILES[device_type]
    if device_type == "cuda" and torch.version.cuda is None:
        return "this torch was built without CUDA"
    if device_type == "cuda" and os.environ.get(CUDA_SWITCH) == "0":
        return f"{CUDA_SWITCH}=0 is set"
    if not path.exists():
        return f"{path.name} was not built (a compiler was missing when mrcnn_plugin was installed)"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} could not be loaded: {error.__cause__ or error}"
    return None


def _declared_schemas(source: Path) -> dict[str, str]:
    """name -> schema of the ops that ops.cpp declares."""
    declarations = re.findall(r'm\.def\(\s*((?:"[^"]*"\s*)+)\)', source.read_text(encoding="utf-8"))
    schemas = ["".join(re.findall(r'"([^"]*)"', declaration)) for declaration in declarations]
    return {schema.partition("(")[0]: schema for schema in schemas}


def _differs(name: str, schema: str) -> bool:
    """Whether the loaded libraries lack an op, or have it with another schema."""
    loaded = torch._C._jit_get_schemas_for_operator(f"mrcnn_plugin::{name}")
    return [str(one) for one in loaded] != [str(torch._C.parse_schema(f"mrcnn_plugin::{schema}"))]


def _refusal() -> str | None:
    """Why the native libraries must not be used, in one line; None where nothing speaks against it."""
    if os.environ.get(LIBRARIES) and STATUS["cpu"] is not None:
        return f"{LIBRARIES}={os.environ[LIBRARIES]}: {FILES['cpu']} cannot be loaded: {STATUS['cpu']}"
    if STATUS["cpu"] is not None or not SCHEMAS.exists():
        return None
    outdated = [name for name, schema in _declared_schemas(SCHEMAS).items() if _differs(name, schema)]
    if outdated:
        return (
            f"{FILES['cpu']} was built from other sources than {SCHEMAS.parent} ({', '.join(outdated)} "
            f"{'differs' if len(outdated) == 1 else 'differ'}); rebuild it: make setup"
        )
    return None


#: device type -> why its library is not loaded; None where it is.
STATUS: dict[str, str | None] = {"cpu": _load("cpu")}
STATUS["cuda"] = _load("cuda") if STATUS["cpu"] is None else STATUS["cpu"]
#: Why every op refuses to run, or None.
REFUSAL = _refusal()
if REFUSAL is not None:
    STATUS.update((device, REFUSAL) for device in FILES)


def check_libraries() -> None:
    """Raises where ops refuse to run.

    Raises:
        ConfigError: the libraries were built from other sources, or MRCNN_PLUGIN_LIBRARIES names none.
    """
    if REFUSAL is not None:
        raise ConfigError(REFUSAL)


@functools.cache
def _warn_once(device_type: str) -> None:
    reason = STATUS.get(device_type) or STATUS["cpu"] or f"no kernels exist for device type {device_type!r}"
    warnings.warn(
        f"mrcnn_plugin: native ops for {device_type} are not available: {reason}. torchvision's RoIAlign and "
        "PyTorch reference ops are used instead: same results, slower."
        + (
            ""
            if reason.startswith(CUDA_SWITCH)
            else " To fix it, install a C++ compiler (and nvcc for CUDA) and reinstall with "
            "`pip install --no-build-isolation -e .`"
        ),
        stacklevel=4,
    )


#: Holds the name of the CUDA device once its kernels have been found to agree with the CPU's.
_checked: list[str] = []


def _check_first_cuda_call() -> None:
    """Raises where the CUDA kernels disagree with the CPU's; not while PyTorch compiles or captures a graph.

    Raises:
        RuntimeError: names the device, what differs, and how to go on without these kernels.
    """
    if torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return
    from . import self_check

    device = f"cuda:{torch.cuda.current_device()}"
    name = torch.cuda.get_device_name(device)
    wrong = [f"{check} ({what})" for check, what in self_check.differences(device) if what]
    if wrong:
        raise RuntimeError(
            f"mrcnn_plugin: CUDA kernels on {device} ({name}) do not agree with the CPU's: "
            f"{'; '.join(wrong)}. Set {CUDA_SWITCH}=0 to use torchvision's RoIAlign and the PyTorch "
            "reference ops instead, and report this with the output "
            "of `python -m mrcnn_plugin.collect_env --check`"
        )
    _checked.append(name)


def simd_level() -> str:
    """The instruction set that CPU kernels use now: "baseline", "avx2" or "avx512".

    It is the widest of the processor, or the one that the environment variable MRCNN_PLUGIN_SIMD names.

    Raises:
        RuntimeError: MRCNN_PLUGIN_SIMD names none that this processor has; every CPU op raises it, too.
    """
    return torch.ops.mrcnn_plugin.simd_level()


def native(device_type: str) -> bool:
    """Whether the native kernels for tensors on `device_type` ("cpu", "cuda", ...) are loaded.

    "meta" counts as native where the schemas are loaded: fake kernels then answer. Warns once per device
    type where they are not.

    Raises:
        ConfigError: as `check_libraries`.
    """
    check_libraries()
    if STATUS["cpu"] is None and (device_type == "meta" or STATUS.get(device_type, "") is None):
        if device_type == "cuda" and not _checked:
            _check_first_cuda_call()
        return True
    if not torch.compiler.is_compiling():
        _warn_once(device_type)
    return False
