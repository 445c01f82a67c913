"""The function of tensors gives the model's own results, bit for bit, for every kind of heads."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.export import DetectionGraph
from mrcnn_plugin.model_zoo import get_config
from mrcnn_plugin.modeling import returning_masks_as

CONFIGS = [
    "Shapes/mask_rcnn_R_18_FPN.py",
    "Shapes/keypoint_rcnn_R_18_FPN.py",
    "Ablations/faster_rcnn_R_18_FPN.py",
    "Ablations/mask_rcnn_R_18_C4.py",
    "Ablations/mask_rcnn_R_18_C4_softmax.py",
    "projects/cascade_mask_rcnn/configs/Shapes/cascade_mask_rcnn_R_18_FPN.py",
    "projects/htc/configs/Shapes/htc_R_18_FPN.py",
    "projects/mask_scoring_rcnn/configs/Shapes/mask_scoring_rcnn_R_18_FPN.py",
    "projects/panet/configs/Shapes/panet_R_18_FPN.py",
    "projects/point_rend/configs/Shapes/point_rend_R_18_FPN.py",
]


def random_model(config: DictConfig) -> torch.nn.Module:
    """A narrow model in eval mode that detects a few objects in noise."""
    torch.manual_seed(0)
    model = instantiate(config.model).eval()
    # Untrained, a ResNet magnifies its input.
    model.pixel_std.fill_(1000.0)
    predictors = model.roi_heads.box_predictor
    for predictor in predictors if isinstance(predictors, torch.nn.ModuleList) else [predictors]:
        torch.nn.init.normal_(predictor.cls_score.weight, std=0.3)
        predictor.test_score_thresh, predictor.test_topk_per_image = 0.05, 4
    model.proposal_generator.pre_nms_topk[False] = 50
    model.proposal_generator.post_nms_topk[False] = 12
    return model


def image_of(height: int, width: int) -> torch.Tensor:
    noise = torch.rand(1, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(0)) * 255
    resized = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")
    return resized[0].permute(1, 2, 0).to(torch.uint8)


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


@pytest.mark.parametrize("config", CONFIGS)
@torch.no_grad()
def test_results_are_the_models(config):
    model = random_model(get_config(config))
    image = image_of(64, 88)
    expected, found = result_of(model, image), DetectionGraph(model)(image)
    assert found.keys() == expected.keys()
    assert len(found["scores"]) > 0
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@torch.no_grad()
def test_nothing_is_found_where_nothing_is():
    model = random_model(get_config("Shapes/mask_rcnn_R_18_FPN.py"))
    model.roi_heads.box_predictor.test_score_thresh = 1.0
    found = DetectionGraph(model)(image_of(64, 64))
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    assert shapes == {"boxes": (0, 4), "scores": (0,), "classes": (0,), "masks": (0, 28, 28)}


@torch.no_grad()
def test_pasted_masks_are_the_models_bitmasks():
    model = random_model(get_config("Shapes/mask_rcnn_R_18_FPN.py"))
    image = image_of(64, 88)
    expected = model([{"image": image.permute(2, 0, 1)}])[0]["instances"].pred_masks
    assert torch.equal(DetectionGraph(model, pasted_masks=True)(image)["masks"], expected)


def test_other_models_are_refused():
    with pytest.raises(ConfigError, match="only a GeneralizedRCNN can be exported, got a Linear"):
        DetectionGraph(torch.nn.Linear(1, 1))
    model = random_model(get_config("Ablations/mask_rcnn_R_18_C4_roi_pool.py"))
    with pytest.raises(ConfigError, match="a model that pools by ROIPool cannot be exported"):
        DetectionGraph(model)
