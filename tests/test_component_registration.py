"""When the plugin registers with Detectron2, and that its ops alone load nothing of it."""

import subprocess
import sys
import textwrap

import pytest

CHECK = """
from detectron2.modeling import META_ARCH_REGISTRY, ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY
from detectron2.data import DatasetCatalog, MetadataCatalog
assert "MaskRCNN" in META_ARCH_REGISTRY and "MaskRCNNROIHeads" in ROI_HEADS_REGISTRY
assert "FCNMaskHead" in ROI_MASK_HEAD_REGISTRY
assert META_ARCH_REGISTRY.get("MaskRCNN").__module__ == "mrcnn_plugin.modeling.rcnn"
assert "shapes_train" in DatasetCatalog.list() and "cityscapes_drawn_val" in DatasetCatalog.list()
assert MetadataCatalog.get("shapes_train").evaluator_type == "coco"
"""

# Ways in which programs come to both packages. Each must end with everything registered.
PATHS = {
    "the plugin first": "import mrcnn_plugin\n",
    # For a Detectron2 that works by itself, like its main branch: only the shims are there before.
    "Detectron2's programs, the config later": """
        import importlib.util, sys, types
        folder = importlib.util.find_spec("mrcnn_plugin").submodule_search_locations
        sys.modules["mrcnn_plugin"] = types.ModuleType("mrcnn_plugin")
        sys.modules["mrcnn_plugin"].__path__ = folder
        from mrcnn_plugin import compat
        compat.apply()
        del sys.modules["mrcnn_plugin"]
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.config import LazyConfig, instantiate
        from detectron2.engine import default_setup, hooks
        import mrcnn_plugin
    """,
    "a component first": "from mrcnn_plugin.modeling.mask_head import FCNMaskHead\n",
    "the data first": "import mrcnn_plugin.data\n",
    "the ops, then a submodule of Detectron2": """
        import mrcnn_plugin.ops
        from detectron2.modeling.meta_arch.rcnn import GeneralizedRCNN
        assert mrcnn_plugin.modeling.ROIPooler and mrcnn_plugin.data.register_shapes
    """,
}


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("path", PATHS)
def test_everything_is_registered(path):
    assert run(textwrap.dedent(PATHS[path]) + CHECK + "print('registered')").strip() == "registered"


def test_a_yaml_pipeline_needs_one_import():
    """Only the registry's own module is imported after the plugin; the name is found all the same."""
    code = """
        import mrcnn_plugin
        from detectron2.config import get_cfg
        cfg = get_cfg()
        mrcnn_plugin.add_config(cfg)
        cfg.MODEL.META_ARCHITECTURE = "MaskRCNN"
        cfg.MODEL.ROI_HEADS.NAME = "MaskRCNNROIHeads"
        cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.DEVICE = "cpu"
        from detectron2.modeling import build_model
        print(type(build_model(cfg)).__module__)
    """
    assert run(code).strip() == "mrcnn_plugin.modeling.rcnn"


def test_the_ops_alone_load_no_detectron2():
    code = """
        import sys
        import torch, torchvision, numpy
        before = set(sys.modules)
        import mrcnn_plugin.ops
        import mrcnn_plugin.ops.roi_align
        boxes = torch.tensor([[0.0, 0, 0, 4, 4]])
        assert mrcnn_plugin.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).eq(1).all()
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
    """
    loaded = run(code).split()
    # pycocotools is what encode_masks and rasterize_polygons are defined by.
    assert {name for name in loaded if not name.startswith("_")} <= {"mrcnn_plugin", "pycocotools"}


def test_registering_needs_nothing_that_may_be_half_imported():
    """What registers imports no part of Detectron2 that the package it waits for has not finished."""
    code = """
        import sys
        from mrcnn_plugin import registration

        def detectron2():
            return {name for name in sys.modules if name.startswith("detectron2")}

        for package, ours in sorted(registration.REGISTERS.items()):
            seen = []
            registration.importlib = type("Recorder", (), {"import_module": staticmethod(seen.append)})
            __import__(package)
            assert ours in seen, (package, seen)
            before = detectron2()
            __import__(ours)
            print(package, *sorted(detectron2() - before))
    """
    assert run(code).split() == ["detectron2.data", "detectron2.modeling"]


def test_without_detectron2_the_ops_work_and_the_rest_says_what_is_missing():
    code = """
        import importlib.machinery
        import warnings

        find_spec = importlib.machinery.PathFinder.find_spec
        importlib.machinery.PathFinder.find_spec = lambda name, *rest: (
            None if name == "detectron2" else find_spec(name, *rest)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            import mrcnn_plugin.ops
        for use in (lambda: mrcnn_plugin.add_config, lambda: mrcnn_plugin.modeling):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    use()
                except ModuleNotFoundError as error:
                    print(error, caught[0].message)
        assert not hasattr(mrcnn_plugin, "no_such_name")
    """
    messages = run(code).strip().splitlines()
    assert len(messages) == 2
    assert all("Detectron2 is not installed" in message and "README" in message for message in messages)


def test_a_spawned_worker_finds_the_components():
    code = """
        import multiprocessing
        from mrcnn_plugin.modeling import FCNMaskHead

        def main():
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(getattr, (FCNMaskHead, "__module__")))

        if __name__ == "__main__":
            main()
    """
    assert run(code).strip() == "mrcnn_plugin.modeling.mask_head"
