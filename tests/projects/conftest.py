from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from helpers.training import synthetic_inputs

import mrcnn_plugin.projects as projects


def _small_model(config):
    torch.manual_seed(0)
    cfg = LazyConfig.load(str(Path(projects.__path__[0], config))).model
    cfg.roi_heads.batch_size_per_image = 16
    cfg.roi_heads.box_predictor.update(test_score_thresh=0.0, test_topk_per_image=6)
    model = instantiate(cfg)
    # Untrained, a ResNet magnifies its input.
    model.pixel_std.fill_(1000.0)
    return model


@pytest.fixture(scope="session")
def small_model():
    """The model of a project's Shapes config, named from projects/ on, with few RoIs and detections."""
    return _small_model


@pytest.fixture(params=["one without instances", "none has instances", "without masks"])
def lacking_masks(request):
    """Two images, one or both of which lack masks, and whether there are masks to learn from."""
    inputs = synthetic_inputs([(64, 64)] * 2, num_classes=4, masks=request.param != "without masks")
    if request.param != "without masks":
        # As Detectron2's mapper leaves them: without the field.
        for image in inputs if request.param == "none has instances" else inputs[:1]:
            image["instances"] = image["instances"][:0]
            image["instances"].remove("gt_masks")
    return inputs, request.param == "one without instances"
