"""Detectron2 0.6 on a current Python, PyTorch, NumPy and Pillow.

Detectron2 0.6 dates from 2021, and its registry upload lacks the compiled `detectron2._C`. Each shim below
mends one thing that is gone, inside the Detectron2 module that needs it and nowhere else: other users of
NumPy, Pillow or PyTorch see no difference. A shim acts when its module is imported (or at once, where it
already is), only if that module's source has the problem and the installed library lacks what it uses; with
Detectron2's main branch most find nothing to do. `status()` says which acted and why.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.resources
import importlib.util
import random
import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mrcnn_plugin.import_hooks import Around, ImportHook

Patch = Callable[[types.ModuleType], "contextlib.AbstractContextManager[None]"]


@dataclass(frozen=True)
class Shim:
    """One thing that some Detectron2 modules miss, and its mend.

    Attributes:
        name: short name, as `status()` prints it.
        why: what is gone, for the person who reads `status()`.
        modules: Detectron2 modules that the mend is for.
        uses: regular expression that their source matches when it has the problem.
        missing: whether the installed libraries lack what the source uses.
        patch: context around the execution of the module: what comes before the yield is in place while its
            top level runs, what comes after mends the module itself.
        late: whether the mend also helps a module that was imported before; the others fail on import.
    """

    name: str
    why: str
    modules: tuple[str, ...]
    uses: str
    missing: Callable[[], bool]
    patch: Patch
    late: bool = False


@contextlib.contextmanager
def _swapped(table: object, key: str, value: object) -> Iterator[None]:
    """Sets an attribute (or an entry of a dict) for a while; afterwards it is as it was."""
    entries = table if isinstance(table, dict) else vars(table)
    absent = object()
    before = entries.get(key, absent)
    entries[key] = value
    try:
        yield
    finally:
        if before is absent:
            entries.pop(key, None)
        else:
            entries[key] = before


class _Overlay(types.ModuleType):
    """A module that answers some names itself and hands every other one on."""

    def __init__(self, module: types.ModuleType, **names: object) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["_module"], name)


# detectron2._C


class _MissingExtension(types.ModuleType):
    """Stands for `detectron2._C` where a module imports it but may never call it."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"detectron2._C.{name} was called, but this Detectron2 was installed without its compiled "
            "extension (rotated boxes, deformable convolution and the fast COCO evaluation need it). "
            "Mend: install Detectron2 from source with a compiler."
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
    with _swapped(sys.modules, "detectron2._C", stub), _swapped(package, "_C", stub):
        yield


@contextlib.contextmanager
def _plain_coco_evaluation(module: types.ModuleType) -> Iterator[None]:
    yield
    module.COCOeval_opt = module.COCOeval


# NumPy, Pillow, setuptools, Python, PyTorch

_NUMPY_ALIASES = {"bool": bool, "int": int, "float": float, "str": str, "object": object}


def _numpy_aliases_missing() -> bool:
    import numpy as np

    return any(name not in vars(np) for name in _NUMPY_ALIASES)


@contextlib.contextmanager
def _own_numpy(module: types.ModuleType) -> Iterator[None]:
    yield
    module.np = _Overlay(module.np, **_NUMPY_ALIASES)


def _pillow_linear_missing() -> bool:
    from PIL import Image

    return not hasattr(Image, "LINEAR")


@contextlib.contextmanager
def _own_pillow(module: types.ModuleType) -> Iterator[None]:
    from PIL import Image

    # A default argument, so it is needed only while the module's classes are defined.
    with _swapped(Image, "LINEAR", Image.BILINEAR):
        yield


def _pkg_resources_missing() -> bool:
    return importlib.util.find_spec("pkg_resources") is None


@contextlib.contextmanager
def _own_pkg_resources(module: types.ModuleType) -> Iterator[None]:
    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, path: str(importlib.resources.files(package).joinpath(path))
    with _swapped(sys.modules, "pkg_resources", stand_in):
        yield


class _SetSampling(random.Random):
    """`random.Random` whose `sample` takes a set, as it did before Python 3.11."""

    def sample(self, population, k, **kwargs):
        return super().sample(tuple(population) if isinstance(population, set) else population, k, **kwargs)


@contextlib.contextmanager
def _own_random(module: types.ModuleType) -> Iterator[None]:
    yield
    module.random = _Overlay(module.random, Random=_SetSampling)


def _in1d_missing() -> bool:
    import numpy as np

    return not hasattr(np, "in1d")


@contextlib.contextmanager
def _own_counting(module: types.ModuleType) -> Iterator[None]:
    """Counts are Python's again as well: the module writes them as JSON."""
    yield
    np = module.np
    module.np = _Overlay(
        np,
        in1d=lambda *args, **kwargs: np.isin(*args, **kwargs).ravel(),
        count_nonzero=lambda array: int(np.count_nonzero(array)),
    )


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
    Shim(
        name="numpy.in1d",
        why="NumPy 2.4 dropped it, and counts in its own integers; Cityscapes' evaluation needs both",
        modules=("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling",),
        uses=r"\bnp\.in1d\b",
        missing=_in1d_missing,
        patch=_own_counting,
        late=True,
    ),
)

#: (shim, module) pairs that acted in this process.
_applied: list[tuple[Shim, str]] = []


def _shims_for(module: str, file: str | None) -> list[Shim]:
    """The shims that `module`, whose source is `file`, needs here."""
    candidates = [shim for shim in SHIMS if module in shim.modules]
    if not candidates or not file or not Path(file).is_file():
        return []
    source = Path(file).read_text(encoding="utf-8")
    return [shim for shim in candidates if re.search(shim.uses, source) and shim.missing()]


@contextlib.contextmanager
def _patched(module: types.ModuleType, shims: list[Shim]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for shim in shims:
            stack.enter_context(shim.patch(module))
        yield
    _applied.extend((shim, module.__name__) for shim in shims)


def _around(name: str, file: str | None) -> Around | None:
    shims = _shims_for(name, file)
    return functools.partial(_patched, shims=shims) if shims else None


_hook = ImportHook((name for shim in SHIMS for name in shim.modules), _around)


def apply() -> None:
    """Makes the shims act on every Detectron2 module that is imported from now on, or already was.

    Does nothing the second time.
    """
    if _hook in sys.meta_path:
        return
    _hook.install()
    for name in sorted(_hook.names & sys.modules.keys()):
        module = sys.modules[name]
        late = [shim for shim in _shims_for(name, getattr(module, "__file__", None)) if shim.late]
        with _patched(module, late):
            pass


def status() -> list[tuple[str, str, str]]:
    """What every shim did in this process.

    Returns:
        One (name, what happened, why it exists) a shim. A shim whose modules were not imported says so.
    """
    rows = []
    for shim in SHIMS:
        done = [module for acted, module in _applied if acted is shim]
        imported = [module for module in shim.modules if module in sys.modules]
        if done:
            what = "applied to " + ", ".join(module.removeprefix("detectron2.") for module in done)
        elif imported:
            what = "not needed"
        else:
            what = "not imported yet"
        rows.append((shim.name, what, shim.why))
    return rows
