"""Backbones of optimized copies compiled by AOTInductor, where that is found equal and faster.

A package is made for each size of picture: for fixed sizes the weights become constants in the order that
oneDNN computes in. Packages, and what was found slower, are kept between runs.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mrcnn_plugin
from mrcnn_plugin.atomic_files import replacing, write_atomically
from mrcnn_plugin.cache_folder import default_cache_dir
from mrcnn_plugin.errors import first_line, storage_problem
from mrcnn_plugin.timing import times_as_fast

logger = logging.getLogger(__name__)

Maps = dict[str, Tensor]
# A size of picture is compiled when it comes for this time: sizes that come once are not worth the seconds.
_OCCURRENCES = 2
# Each package holds the weights.
_MOST_SIZES = 8
# Largest difference of a map, by its largest value.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
# Less is within the scatter of the measurement.
_LEAST_GAIN = 1.03


def compile_backbone(model: nn.Module) -> None:
    """Lets, in place, the backbone of an optimized copy be compiled while it is used; float32 and bfloat16.

    For each size of input, at its second picture: compile, compare with the backbone as it is, measure both,
    and take the faster. Whatever fails is said in one line, and the backbone is used as it is.
    """
    backbone: Any = model.backbone
    backbone.forward = CompiledSizes(backbone, default_cache_dir() / "compiled")


class CompiledSizes:
    """The forward of a backbone, compiled for the sizes that recur.

    Attributes:
        chosen: size of the input -> what computes its maps; those that are not in it are not compiled yet.
    """

    def __init__(self, backbone: nn.Module, folder: Path) -> None:
        """
        Args:
            folder: where packages are kept.
        """
        self.chosen: dict[torch.Size, Callable[[Tensor], Maps]] = {}
        self._eager = _Eager(backbone)
        self._folder = folder
        self._seen: Counter[torch.Size] = Counter()
        self._weights = ""

    def __deepcopy__(self, memo: dict) -> CompiledSizes:
        return CompiledSizes(copy.deepcopy(self._eager.backbone, memo), self._folder)

    def __call__(self, x: Tensor) -> Maps:
        run = self.chosen.get(x.shape)
        if run is not None:
            return run(x)
        self._seen[x.shape] += 1
        if self._seen[x.shape] >= _OCCURRENCES and len(self.chosen) < _MOST_SIZES:
            self.chosen[x.shape] = self._choose(x)
        return self._eager(x)

    def _choose(self, x: Tensor) -> Callable[[Tensor], Maps]:
        what = f"Backbone for {x.shape[3]} x {x.shape[2]}"
        package = self._folder / f"{self._key(x)}.pt2"
        slower = package.with_suffix(".slower")
        if slower.exists():
            logger.info(f"{what}: not compiled, which {slower} says is slower")
            return self._eager
        start = time.perf_counter()
        try:
            if not package.exists():
                logger.info(f"{what}: compiling, once for this size and these weights, into {package}")
                self._compile(x, package)
            compiled = torch._inductor.aoti_load_package(str(package))
            difference = _difference(compiled(x), self._eager(x))
        except Exception as error:
            # Whatever the compiler, its linker or the disk say: the result is there without them.
            why = storage_problem(error) or first_line(error)
            logger.warning(f"{what}: not compiled, the optimized model runs as it is: {why}")
            return self._eager
        seconds = time.perf_counter() - start
        if not difference <= _TOLERANCE[self._eager.dtype]:
            logger.warning(f"{what}: not compiled, as maps would differ by {difference:.1g} of their size")
            return self._eager
        gain = times_as_fast(lambda: self._eager(x), lambda: compiled(x), rounds=3)
        text = f"{what}: ready after {seconds:.0f} s, maps within {difference:.0e}, {gain:.2f} times as fast"
        if gain < _LEAST_GAIN:
            logger.info(f"{text}; the optimized model runs as it is")
            write_atomically(slower, f"{gain:.3f}\n".encode())
            package.unlink(missing_ok=True)
            return self._eager
        logger.info(text)
        return compiled

    def _compile(self, x: Tensor, package: Path) -> None:
        package.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad(), replacing(package) as part:
            program = torch.export.export(self._eager, (x,), strict=False)
            torch._inductor.aoti_compile_and_package(
                program, package_path=part, inductor_configs={"freezing": True}
            )

    def _key(self, x: Tensor) -> str:
        """Of all that a package depends on: versions, processor, threads, layers, weights, and the input."""
        if not self._weights:
            digest = hashlib.sha256(repr(self._eager.backbone).encode())
            for name, value in self._eager.backbone.state_dict().items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
            self._weights = digest.hexdigest()
        about = (
            *(mrcnn_plugin.__version__, torch.__version__, torch.backends.cpu.get_cpu_capability()),
            *(torch.get_num_threads(), self._weights, tuple(x.shape), x.dtype, x.stride()),
        )
        return hashlib.sha256(repr(about).encode()).hexdigest()[:32]


class _Eager(nn.Module):
    """A backbone's own forward, without its hooks and without what has taken its place."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def dtype(self) -> torch.dtype:
        return next(self.backbone.parameters()).dtype

    def forward(self, x: Tensor) -> Maps:
        return type(self.backbone).forward(self.backbone, x)


def _difference(maps: Maps, expected: Maps) -> float:
    """The largest difference of a map by the largest value of the map."""
    if maps.keys() != expected.keys():
        return float("inf")
    apart = [
        (maps[name].float() - value.float()).abs().max() / value.float().abs().max().clamp(min=1e-12)
        for name, value in expected.items()
    ]
    return float(torch.stack(apart).max())
