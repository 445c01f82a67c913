"""Shims for Detectron2 0.6, which dates from 2021, on a current Python, PyTorch, NumPy and Pillow."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.resources
import importlib.util
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from .shim import Overlay, Shim, swapped


class _MissingExtension(types.ModuleType):
    """Stands for `detectron2._C` where a module imports it but may never call it."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"detectron2._C.{name} was called, but this Detectron2 was installed without its compiled "
            "extension (rotated boxes and the fast COCO evaluation need it). "
            "Install Detectron2 from source with a compiler."
        )


@functools.cache
def _extension_missing() -> bool:
    try:
        return importlib.util.find_spec("detectron2._C") is None or not importlib.import_module(
            "detectron2._C"
        )
    except ImportError:
        return True


@contextlib.contextmanager
def _stub_extension(module: types.ModuleType) -> Iterator[None]:
    package = sys.modules["detectron2"]
    stub = _MissingExtension("detectron2._C")
    with swapped(sys.modules, "detectron2._C", stub), swapped(package, "_C", stub):
        yield


@contextlib.contextmanager
def _plain_coco_evaluation(module: Any) -> Iterator[None]:
    yield
    module.COCOeval_opt = module.COCOeval


_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "str": str, "object": object}


def _numpy_aliases_missing() -> bool:
    import numpy as np

    return any(name not in vars(np) for name in _NUMPY_ALIASES)


@contextlib.contextmanager
def _own_numpy(module: Any) -> Iterator[None]:
    yield
    module.np = Overlay(module.np, **_NUMPY_ALIASES)


def _pillow_linear_missing() -> bool:
    from PIL import Image

    return not hasattr(Image, "LINEAR")


@contextlib.contextmanager
def _own_pillow(module: types.ModuleType) -> Iterator[None]:
    from PIL import Image

    # A default argument, so it is needed only while the module's classes are defined.
    with swapped(Image, "LINEAR", Image.Resampling.BILINEAR):
        yield


def _pkg_resources_missing() -> bool:
    return importlib.util.find_spec("pkg_resources") is None


def _resource_filename(package: str, path: str) -> str:
    return str(importlib.resources.files(package).joinpath(path))


@contextlib.contextmanager
def _own_pkg_resources(module: types.ModuleType) -> Iterator[None]:
    stand_in = types.ModuleType("pkg_resources")
    vars(stand_in)["resource_filename"] = _resource_filename
    with swapped(sys.modules, "pkg_resources", stand_in):
        yield


class _SetSampling(random.Random):
    """`random.Random` whose `sample` takes a set, as it did before Python 3.11."""

    def sample(self, population, k, **kwargs):
        return super().sample(tuple(population) if isinstance(population, set) else population, k, **kwargs)


@contextlib.contextmanager
def _own_random(module: Any) -> Iterator[None]:
    yield
    module.random = Overlay(module.random, Random=_SetSampling)


def _scheduler_base_moved() -> bool:
    import torch

    schedulers = torch.optim.lr_scheduler
    return not issubclass(schedulers.StepLR, schedulers._LRScheduler)


@contextlib.contextmanager
def _saved_scheduler(module: types.ModuleType) -> Iterator[None]:
    """The hook knows a scheduler by its old base class and silently saves nothing of a newer one."""
    yield
    import torch

    def state_dict(self) -> dict:
        is_scheduler = isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler)
        return self.scheduler.state_dict() if is_scheduler else {}

    def load_state_dict(self, state_dict: dict) -> None:
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LRScheduler):
            self.scheduler.load_state_dict(state_dict)

    module.LRScheduler.state_dict = state_dict
    module.LRScheduler.load_state_dict = load_state_dict


def _caffe2_missing() -> bool:
    return importlib.util.find_spec("caffe2") is None


@contextlib.contextmanager
def _without_caffe2(module: types.ModuleType) -> Iterator[None]:
    """`detectron2.export` takes all names of a module that needs Caffe2; here it finds none in it."""
    empty = types.ModuleType(f"{module.__name__}.api")
    vars(empty)["__all__"] = []
    with swapped(sys.modules, empty.__name__, empty):
        yield


@contextlib.contextmanager
def _torchvision_deform_conv(module: Any) -> Iterator[None]:
    yield
    module.deform_conv = _called_late("deform_conv")
    module.modulated_deform_conv = _called_late("modulated_deform_conv")


def _called_late(name: str) -> Callable[..., Any]:
    """A function of `compat.deform_conv`, imported at its first call: not while Detectron2 is."""

    def call(*args: Any, **kwargs: Any) -> Any:
        from . import deform_conv

        return getattr(deform_conv, name)(*args, **kwargs)

    return call


SHIMS: tuple[Shim, ...] = (
    Shim(
        name="detectron2._C",
        why="Detectron2 was installed without its compiled extension, which these modules import",
        modules=(
            "detectron2.layers.deform_conv",
            "detectron2.layers.rotated_boxes",
            "detectron2.layers.roi_align_rotated",
            "detectron2.evaluation.fast_eval_api",
        ),
        uses=r"(?m)^\s*from detectron2 import _C\b",
        missing=_extension_missing,
        patch=_stub_extension,
    ),
    Shim(
        name="deformable convolution",
        why="Detectron2's runs in detectron2._C, which is missing: torchvision's operator is used",
        modules=("detectron2.layers.deform_conv",),
        uses=r"\b_C\.deform_conv_forward\b",
        missing=_extension_missing,
        patch=_torchvision_deform_conv,
        late=True,
    ),
    Shim(
        name="caffe2",
        why="it is gone; detectron2.export imports it for the sake of its Caffe2 exporter alone",
        modules=("detectron2.export",),
        uses=r"(?m)^from \.api import \*",
        missing=_caffe2_missing,
        patch=_without_caffe2,
    ),
    Shim(
        name="COCOeval_opt",
        why="the fast COCO evaluation lives in detectron2._C, which is missing: pycocotools is used",
        modules=("detectron2.evaluation.coco_evaluation",),
        uses=r"\bCOCOeval_opt\b",
        missing=_extension_missing,
        patch=_plain_coco_evaluation,
        late=True,
    ),
    Shim(
        name="PIL.Image.LINEAR",
        why="Pillow 10 dropped this name of BILINEAR",
        modules=("detectron2.data.transforms.transform",),
        uses=r"\bImage\.LINEAR\b",
        missing=_pillow_linear_missing,
        patch=_own_pillow,
    ),
    Shim(
        name="numpy aliases",
        why="NumPy 1.24 dropped np.bool, np.int, np.float, np.str and np.object",
        modules=(
            "detectron2.data.build",
            "detectron2.data.datasets.pascal_voc",
            "detectron2.evaluation.pascal_voc_evaluation",
            "detectron2.evaluation.sem_seg_evaluation",
            "detectron2.structures.masks",
            "detectron2.utils.video_visualizer",
            "detectron2.utils.visualizer",
            "lvis.eval",
        ),
        uses=r"\bnp\.(bool|int|float|str|object)\b(?!_)",
        missing=_numpy_aliases_missing,
        patch=_own_numpy,
        late=True,
    ),
    Shim(
        name="pkg_resources",
        why="setuptools 82 dropped it",
        modules=("detectron2.model_zoo.model_zoo",),
        uses=r"(?m)^import pkg_resources\b",
        missing=_pkg_resources_missing,
        patch=_own_pkg_resources,
    ),
    Shim(
        name="random.sample of a set",
        why="Python 3.11 dropped it; MapDataset uses it when an image cannot be used",
        modules=("detectron2.data.common",),
        uses=r"\.sample\(self\._fallback_candidates,",
        missing=lambda: sys.version_info >= (3, 11),
        patch=_own_random,
        late=True,
    ),
    Shim(
        name="LRScheduler hook",
        why="torch 2 gave schedulers a new base class, so the hook neither saved nor restored their state",
        modules=("detectron2.engine.hooks",),
        uses=r"\btorch\.optim\.lr_scheduler\._LRScheduler\b",
        missing=_scheduler_base_moved,
        patch=_saved_scheduler,
        late=True,
    ),
)
