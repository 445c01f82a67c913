"""The models that end_to_end.py measures, ours and the peers', with weights that behave as trained ones."""

from __future__ import annotations

# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torchvision
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.projects.point_rend import add_pointrend_config
from model_zoo import detectron2_model
from omegaconf import DictConfig
from torch import nn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

from mrcnn_plugin import model_zoo, projects

LONGEST = 1333 / 800


def project(name: str, config: str) -> DictConfig:
    return LazyConfig.load(str(Path(projects.__path__[0], name, "configs", config))).model


def as_if_trained(model: nn.Module) -> nn.Module:
    """Residuals that do not pile up, scores and masks that differ."""
    for name, value in model.state_dict().items():
        if name.endswith("conv3.norm.weight"):
            value.fill_(0.1)
        elif "cls_score.weight" in name:
            value.normal_(std=0.2)
        elif name.endswith(
            ("mask_head.predictor.weight", "point_head.predictor.weight", "prediction.weight")
        ):
            value.normal_(std=0.1)
    return model


def finding(model: nn.Module, detections: int) -> nn.Module:
    """`model` in evaluation, with so many detections per image whatever their scores."""
    for module in model.modules():
        if hasattr(module, "test_score_thresh"):
            module.test_score_thresh, module.test_topk_per_image = 0.0, detections
    return model.eval()


def detectron2_cascade(config: DictConfig) -> nn.Module:
    config = detectron2_model(config)
    config.roi_heads._target_ = CascadeROIHeads
    config.roi_heads.pop("mask_stages", None)
    return instantiate(config)


def detectron2_point_rend(config: DictConfig) -> nn.Module:
    """Detectron2 builds its PointRend from a CfgNode alone; these are the settings of its own zoo's files."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    keys = {
        "BACKBONE.NAME": "build_resnet_fpn_backbone",
        "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "RPN.PRE_NMS_TOPK_TEST": 1000,
        "ROI_HEADS.NAME": "PointRendROIHeads",
        "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "ROI_BOX_HEAD.NUM_FC": 2,
        "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MASK_ON": True,
        "ROI_MASK_HEAD.NAME": "PointRendMaskHead",
        "ROI_MASK_HEAD.POOLER_TYPE": "",
        "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
        "ROI_MASK_HEAD.FC_DIM": 1024,
        "ROI_MASK_HEAD.NUM_FC": 2,
        "ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 7,
        "ROI_MASK_HEAD.IN_FEATURES": ["p2"],
        "ROI_MASK_HEAD.POINT_HEAD_ON": True,
        "POINT_HEAD.FC_DIM": 256,
        "POINT_HEAD.NUM_FC": 3,
        "POINT_HEAD.IN_FEATURES": ["p2"],
        "POINT_HEAD.NUM_CLASSES": 80,
    }
    for name, value in keys.items():
        cfg.merge_from_list([f"MODEL.{name}", value])
    cfg.MODEL.PIXEL_STD = list(config.pixel_std)
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def of_torchvision(edge: int, detections: int) -> nn.Module:
    """torchvision's maskrcnn_resnet50_fpn as its pre-trained weights need it, with random ones."""
    body = torchvision.models.resnet50(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    sizes = {"min_size": edge, "max_size": round(edge * LONGEST), "box_score_thresh": 0.0}
    sizes["box_detections_per_img"] = detections
    model = torchvision.models.detection.MaskRCNN(_resnet_fpn_extractor(body, 3), 91, **sizes)
    overwrite_eps(model, 0.0)
    for name, value in model.state_dict().items():
        if name.endswith("bn3.weight"):
            value.fill_(0.1)
    model.roi_heads.box_predictor.cls_score.weight.data.normal_(std=0.2)
    return model.eval()


@dataclass(frozen=True)
class Case:
    """A config, and how Detectron2's model of it is built; None: torchvision is the peer."""

    config: Callable[[], DictConfig]
    theirs: Callable[[DictConfig], nn.Module] | None = lambda config: instantiate(detectron2_model(config))


CASES = {
    "mask R50-FPN": Case(lambda: zoo("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")),
    "torchvision's mask R50-FPN": Case(
        lambda: zoo("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_torchvision.py"), None
    ),
    "keypoint R50-FPN": Case(lambda: zoo("COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py")),
    "cascade R50-FPN": Case(
        lambda: project("cascade_mask_rcnn", "COCO-InstanceSegmentation/cascade_mask_rcnn_R_50_FPN_1x.py"),
        detectron2_cascade,
    ),
    "PointRend R50-FPN": Case(
        lambda: project("point_rend", "COCO-InstanceSegmentation/point_rend_R_50_FPN_1x.py"),
        detectron2_point_rend,
    ),
    "FineTune EfficientNet-Lite0": Case(lambda: zoo("FineTune/mask_rcnn_efficientnet_lite0_FPN.py")),
}


def zoo(name: str) -> DictConfig:
    return model_zoo.get_config(name).model
