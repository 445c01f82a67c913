"""Models of every kind of backbone and heads, narrow and untrained, that detect something in noise."""

from __future__ import annotations

import torch
from detectron2.config import instantiate
from export_matrix import CASES
from omegaconf import DictConfig

from mrcnn_plugin.runtime import ModelDescription

#: name -> config of a narrow model of every kind.
MODELS = {name: config for name, config in CASES.items() if "R50-FPN" not in name}


def description_of(outputs: list[str]) -> ModelDescription:
    """Of a model for any size of picture, with these outputs."""
    return ModelDescription(
        version="0",
        outputs=outputs,
        color_order="RGB",
        image_size=None,
        min_size=None,
        max_size=None,
        resizes=False,
        pixel_mean=[0.0, 0.0, 0.0],
        score_threshold=0.05,
        nms_threshold=0.5,
        masks="probabilities",
        mask_threshold=0.5,
        metadata={},
        config="",
    )


def random_model(config: DictConfig) -> torch.nn.Module:
    """A narrow model in eval mode that detects a few objects in noise."""
    torch.manual_seed(0)
    model = instantiate(config).eval()
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
