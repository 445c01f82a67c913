"""What a bug report needs: versions, which native libraries loaded, which shims acted and why.

python -m mrcnn_plugin.collect_env
python -m mrcnn_plugin.collect_env --check    runs every op on every device, too; 1 if any disagrees
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from pathlib import Path

import torch
from tabulate import tabulate

import mrcnn_plugin

from .ops import library, self_check

_DISTRIBUTIONS = (
    "torchvision",
    "fvcore",
    "iopath",
    "omegaconf",
    "numpy",
    "Pillow",
    "pycocotools",
    "faster-coco-eval",
    "opencv-python",
    "opencv-python-headless",
)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _detectron2() -> str:
    if importlib.util.find_spec("detectron2") is None:
        return "not installed: only mrcnn_plugin.ops works"
    package = importlib.import_module("detectron2")
    return f"{package.__version__} in {package.__path__[0]}"


def _cuda() -> str:
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    if not torch.cuda.is_available():
        return f"{torch.version.cuda}, no usable device"
    devices = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return f"{torch.version.cuda}, {torch.cuda.device_count()} x {', '.join(sorted(devices))}"


def versions() -> list[tuple[str, str]]:
    """(name, version or location) of everything that a run depends on."""
    rows = [
        ("mrcnn_plugin", f"{mrcnn_plugin.__version__} in {Path(mrcnn_plugin.__file__).parent}"),
        ("Python", f"{platform.python_version()} on {platform.platform()}"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        ("CUDA", _cuda()),
        ("Detectron2", _detectron2()),
    ]
    return rows + [(name, _version(name)) for name in _DISTRIBUTIONS]


def _simd_level() -> str:
    try:
        return f"loaded, instruction set {library.simd_level()}"
    except RuntimeError as error:
        return f"loaded, but every op raises: {error}"


def libraries() -> list[tuple[str, str, str]]:
    """(device, file, "loaded" or why not) of the native libraries; the CPU's with its instruction set."""
    loaded = {"cpu": _simd_level, "cuda": lambda: "loaded"}
    return [
        (
            device,
            library.FILES[device].name,
            loaded[device]() if reason is None else f"not loaded: {reason}",
        )
        for device, reason in library.STATUS.items()
    ]


def shims() -> list[tuple[str, str, str]]:
    """`compat.status()` after every module that a shim is for was imported."""
    if importlib.util.find_spec("detectron2") is None:
        return []
    from . import compat

    for module in {name for shim in compat.SHIMS for name in shim.modules}:
        # A Detectron2 of another version may lack one of them, or one may lack a library of its own.
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    return compat.status()


def collect_env() -> str:
    """The whole report as text."""
    return "\n\n".join(
        (
            tabulate(versions(), tablefmt="plain"),
            "Native libraries\n" + tabulate(libraries(), tablefmt="plain"),
            "Shims for Detectron2\n" + tabulate(shims(), tablefmt="plain", maxcolwidths=[None, 48, 48]),
        )
    )


def check() -> list[tuple[str, str, str]]:
    """(device, op, "agrees" or what differs) of every op on every device that has native kernels.

    The CPU is compared with the ops' PyTorch twins, a CUDA device with the CPU.
    """
    devices = ["cpu"] if library.STATUS["cpu"] is None else []
    if library.STATUS["cuda"] is None:
        devices += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [
        (device, name, f"differs: {what}" if what else "agrees")
        for device in devices
        for name, what in self_check.differences(device, thorough=True)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Prints the report; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m mrcnn_plugin.collect_env", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="run every op on every device against the CPU")
    options = parser.parse_args(arguments)
    print(collect_env())
    if not options.check:
        return 0
    results = check()
    print("\nNative ops against the CPU, the CPU against PyTorch")
    print(tabulate(results, tablefmt="plain") if results else "none: no native library is loaded")
    return int(any(result != "agrees" for _, _, result in results))


if __name__ == "__main__":
    sys.exit(main())
