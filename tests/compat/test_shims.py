"""Each shim of `mrcnn_plugin.compat`: what it repairs, and that it leaves alone what works."""

import dataclasses
import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import mrcnn_plugin
from mrcnn_plugin import compat
from mrcnn_plugin.compat import import_hook

detectron2_without_extension = pytest.mark.skipif(
    importlib.util.find_spec("detectron2._C") is not None, reason="this Detectron2 has its extension"
)


def shim(name: str) -> compat.Shim:
    return next(s for s in compat.SHIMS if s.name == name)


def run_python(code: str, *paths: Path) -> str:
    """Output of a fresh interpreter that knows the real `compat` module, with `paths` before everything."""
    load = f"""
        import importlib.util, sys
        sys.path[:0] = {[str(p) for p in paths]!r}
        spec = importlib.util.spec_from_file_location(
            "compat", {compat.__file__!r}, submodule_search_locations={list(compat.__path__)!r}
        )
        compat = sys.modules["compat"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(compat)
        # It brings the package, whose registration would answer to a made-up Detectron2 as well.
        from mrcnn_plugin.around_import import AroundImport
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, AroundImport)]
    """
    script = textwrap.dedent(load) + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def fake_detectron2(root: Path, modules: dict[str, str]) -> Path:
    for name, source in {"detectron2": "", **modules}.items():
        is_package = any(other.startswith(name + ".") for other in modules) or name == "detectron2"
        path = root.joinpath(*name.split("."))
        path = path / "__init__.py" if is_package else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    return root


@detectron2_without_extension
def test_a_missing_extension_imports_and_says_so_when_called():
    from detectron2.layers import batched_nms_rotated, rotated_boxes  # noqa: F401

    with pytest.raises(ImportError, match=r"detectron2\._C\.box_iou_rotated was called.*install"):
        rotated_boxes.pairwise_iou_rotated(torch.zeros(1, 5), torch.zeros(1, 5))
    assert "detectron2._C" not in sys.modules, "others must still see that the extension is missing"


@detectron2_without_extension
def test_coco_evaluation_falls_back_to_pycocotools():
    from detectron2.evaluation import coco_evaluation
    from pycocotools.cocoeval import COCOeval

    assert coco_evaluation.COCOeval_opt is COCOeval


@pytest.mark.skipif(importlib.util.find_spec("caffe2") is not None, reason="this environment has Caffe2")
def test_export_and_analysis_import_without_caffe2():
    pass


def test_pillow_linear_is_mended_for_detectron2_only():
    from detectron2.data.transforms import ExtentTransform

    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    assert ExtentTransform((0, 0, 4, 4), (2, 2)).apply_image(image).shape == (2, 2, 1)
    assert not hasattr(PIL.Image, "LINEAR")


def test_numpy_aliases_live_in_detectron2_only():
    from detectron2.data import build
    from detectron2.structures import masks

    assert masks.polygons_to_bitmask([np.array([0.0, 0, 4, 0, 4, 4, 0, 4])], 4, 4).all()
    build.print_instances_class_histogram([{"annotations": [{"category_id": 0, "iscrowd": 0}]}], ["thing"])
    assert not hasattr(np, "int")


def test_cityscapes_evaluation_has_its_in1d():
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as evaluation

    assert evaluation.np.in1d(np.array([[1, 2], [3, 4]]), [4, 1]).tolist() == [True, False, False, True]
    assert type(evaluation.np.count_nonzero(np.array([0, 2, 3]))) is int


def test_map_dataset_replaces_an_unusable_image():
    from detectron2.data import MapDataset

    dataset = MapDataset([0, 1, 2, 3], lambda x: x if x == 2 else None)
    assert dataset[0] == 2


def test_scheduler_state_survives_a_resume():
    from detectron2.engine.hooks import LRScheduler

    def hook() -> LRScheduler:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return LRScheduler(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=2))

    before, after = hook(), hook()
    for _ in range(3):
        before.scheduler.optimizer.step()
        before.scheduler.step()
    assert before.state_dict()["last_epoch"] == 3
    after.load_state_dict(before.state_dict())
    assert after.scheduler.last_epoch == 3


def test_pkg_resources_is_replaced_where_it_is_gone(tmp_path):
    package = fake_detectron2(
        tmp_path,
        {
            "detectron2.model_zoo": "",
            "detectron2.model_zoo.model_zoo": """
                import pkg_resources
                def where(): return pkg_resources.resource_filename("detectron2.model_zoo", "configs/a.yaml")
            """,
        },
    )
    code = """
        sys.modules["pkg_resources"] = None  # what an import of a missing module finds
        compat.apply()
        from detectron2.model_zoo.model_zoo import where
        print(where())
        print(sys.modules["pkg_resources"])
    """
    where, left = run_python(code, package).split("\n")[:2]
    assert Path(where) == package / "detectron2" / "model_zoo" / "configs" / "a.yaml"
    assert left == "None"


def test_nothing_is_touched_where_nothing_is_missing(tmp_path):
    package = fake_detectron2(
        tmp_path,
        {
            "detectron2._C": "real = True",
            "detectron2.layers": "",
            "detectron2.layers.deform_conv": "from detectron2 import _C",
            "detectron2.layers.rotated_boxes": "",
            "detectron2.layers.roi_align_rotated": "",
            "detectron2.evaluation": "",
            "detectron2.evaluation.fast_eval_api": "from detectron2 import _C",
            "detectron2.evaluation.coco_evaluation": "COCOeval, COCOeval_opt = 1, 2",
            "detectron2.structures": "",
            "detectron2.structures.masks": "import numpy as np\nzeros = np.zeros(3, dtype=np.float32)",
            "detectron2.data": "",
            "detectron2.data.common": "import random",
            "detectron2.engine": "",
            "detectron2.engine.hooks": "class LRScheduler: pass",
        },
    )
    code = """
        compat.apply()
        import numpy, random
        from detectron2.layers import deform_conv
        from detectron2.evaluation import coco_evaluation, fast_eval_api
        from detectron2.structures import masks
        from detectron2.data import common
        from detectron2.engine import hooks
        assert deform_conv._C.real and fast_eval_api._C.real and coco_evaluation.COCOeval_opt == 2
        assert masks.np is numpy and common.random is random and not hasattr(hooks.LRScheduler, "state_dict")
        print({what for _, what, _ in compat.status()})
    """
    assert run_python(code, package).strip() in (
        "{'not needed', 'not imported yet'}",
        "{'not imported yet', 'not needed'}",
    )


@pytest.mark.parametrize("name", [s.name for s in compat.SHIMS])
def test_a_shim_needs_both_a_source_that_uses_it_and_a_library_that_lacks_it(name, tmp_path, monkeypatch):
    uses = {
        "detectron2._C": "from detectron2 import _C",
        "COCOeval_opt": "COCOeval_opt(1)",
        "deformable convolution": "_C.deform_conv_forward(x)",
        "caffe2": "from .api import *",
        "PIL.Image.LINEAR": "def f(interp=Image.LINEAR): ...",
        "numpy aliases": "x.astype(np.bool)",
        "pkg_resources": "import pkg_resources",
        "random.sample of a set": "self._rng.sample(self._fallback_candidates, k=1)[0]",
        "numpy.in1d": "np.in1d(a, b)",
        "LRScheduler hook": "isinstance(s, torch.optim.lr_scheduler._LRScheduler)",
    }[name]
    with_problem, without = tmp_path / "with.py", tmp_path / "without.py"
    with_problem.write_text(uses)
    without.write_text("np.bool_, np.float32, Image.BILINEAR")
    original = shim(name)

    for missing in (True, False):
        changed = dataclasses.replace(original, missing=lambda missing=missing: missing)
        monkeypatch.setattr(import_hook, "SHIMS", (changed,))
        wanted = [changed] if missing else []
        assert import_hook.shims_for(original.modules[0], str(with_problem)) == wanted
        assert import_hook.shims_for(original.modules[0], str(without)) == []


def test_a_module_imported_before_the_plugin_is_repaired_too(tmp_path):
    package = fake_detectron2(
        tmp_path,
        {
            "detectron2.structures": "",
            "detectron2.structures.masks": """
                import numpy as np
                def f(): return np.zeros(2).astype(np.object)
            """,
        },
    )
    code = """
        from detectron2.structures import masks
        compat.apply()
        print(masks.f().dtype)
    """
    assert run_python(code, package).strip() == "object"


def test_applying_twice_changes_nothing():
    before = list(sys.meta_path)
    mrcnn_plugin.compat.apply()
    assert sys.meta_path == before
