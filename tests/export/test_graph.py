"""The function of tensors gives the model's own results, bit for bit, for every kind of heads."""

from __future__ import annotations

import pytest
import torch
from helpers.exported_models import MODELS, image_of, random_model

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.export import DetectionGraph
from mrcnn_plugin.model_zoo import get_config
from mrcnn_plugin.modeling import returning_masks_as


def result_of(model: torch.nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    with returning_masks_as(model, "raw"):
        found = model([{"image": image.permute(2, 0, 1)}])[0]["instances"]
    results = {"boxes": found.pred_boxes.tensor, "scores": found.scores, "classes": found.pred_classes}
    for name, field in (("masks", "pred_masks"), ("keypoints", "pred_keypoints")):
        if found.has(field):
            results[name] = found.get(field)
    if found.has("mask_scores"):
        results["mask_scores"] = found.mask_scores
    return results


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_results_are_the_models(name):
    model = random_model(MODELS[name]())
    image = image_of(64, 88)
    expected, found = result_of(model, image), DetectionGraph(model)(image)
    assert found.keys() == expected.keys()
    assert len(found["scores"]) > 0
    for field, value in expected.items():
        assert torch.equal(found[field], value), field


@torch.no_grad()
def test_nothing_is_found_where_nothing_is():
    model = random_model(MODELS["Mask R-CNN, FPN"]())
    model.roi_heads.box_predictor.test_score_thresh = 1.0
    found = DetectionGraph(model)(image_of(64, 64))
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {"boxes": (0, 4), "scores": (0,), "classes": (0,), "masks": (0, 28, 28)}


@torch.no_grad()
def test_pasted_masks_are_the_models_bitmasks():
    model = random_model(MODELS["Mask R-CNN, FPN"]())
    image = image_of(64, 88)
    expected = model([{"image": image.permute(2, 0, 1)}])[0]["instances"].pred_masks
    assert torch.equal(DetectionGraph(model, pasted_masks=True)(image)["masks"], expected)


def test_other_models_are_refused():
    with pytest.raises(ConfigError, match="only a GeneralizedRCNN can be exported, got a Linear"):
        DetectionGraph(torch.nn.Linear(1, 1))
    model = random_model(get_config("Ablations/mask_rcnn_R_18_C4_roi_pool.py").model)
    with pytest.raises(ConfigError, match="a model that pools by ROIPool cannot be exported"):
        DetectionGraph(model)
