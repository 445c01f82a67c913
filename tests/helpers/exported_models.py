"""Models of every kind of heads, narrow and untrained, that detect something in noise."""

from __future__ import annotations

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

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
