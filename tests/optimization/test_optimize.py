"""Optimized copies give the detector's results, copy no maps, and leave the detector alone."""

import functools
import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from helpers.training import synthetic_inputs
from omegaconf import OmegaConf
from torch import nn

import mrcnn_plugin
from mrcnn_plugin import model_zoo, projects
from mrcnn_plugin.configs.common.models.torchvision import use_torchvision
from mrcnn_plugin.optimization import LayoutCopies

PROJECTS = {
    name: f"{folder}/configs/Shapes/{name}.py"
    for folder, name in [
        ("cascade_mask_rcnn", "cascade_mask_rcnn_R_18_FPN"),
        ("mask_scoring_rcnn", "mask_scoring_rcnn_R_18_FPN"),
        ("panet", "panet_R_18_FPN"),
        ("htc", "htc_R_18_FPN"),
        ("point_rend", "point_rend_R_18_FPN"),
        ("swin_mask_rcnn", "mask_rcnn_swin_FPN"),
    ]
}
ZOO = {
    "FPN": "Shapes/mask_rcnn_R_18_FPN.py",
    "bottlenecks": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
    "C4": "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
    "C5": "Ablations/mask_rcnn_R_18_C5.py",
    "boxes": "Ablations/faster_rcnn_R_18_FPN.py",
    "softmax": "Ablations/mask_rcnn_R_18_C4_softmax.py",
    "MLP": "Ablations/mask_rcnn_R_18_FPN_mlp3.py",
    "keypoints": "Shapes/keypoint_rcnn_R_18_FPN.py",
    "masks and keypoints": "COCO-Keypoints/mask_keypoint_rcnn_R_50_FPN_1x.py",
    "torchvision 2": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
    "test_resnet": "FineTune/mask_rcnn_efficientnet_lite0_FPN.py",
    "test_efficientnet": "FineTune/mask_rcnn_efficientnet_lite0_FPN.py",
    "test_convnext": "FineTune/mask_rcnn_efficientnet_lite0_FPN.py",
}
WIDTH = 64


def narrow_stages(bottleneck, norm, stride_in_1x1=False):
    """Two blocks per stage, of 16 channels in the first and 128 in the last."""
    stages, channels = [], 16
    for stage in range(4):
        out = 16 << stage
        extra = {"bottleneck_channels": out // 2, "stride_in_1x1": stride_in_1x1} if bottleneck else {}
        strides = [1 if stage == 0 else 2, 1]
        kind = BottleneckBlock if bottleneck else BasicBlock
        more = {"in_channels": channels, "out_channels": out, "stride_per_block": strides, "norm": norm}
        stages.append(ResNet.make_stage(kind, 2, **more, **extra))
        channels = out
    return stages


def config_of(name):
    """The model of a config with fewer channels."""
    if name in PROJECTS:
        cfg = LazyConfig.load(str(Path(projects.__path__[0], PROJECTS[name]))).model
    else:
        cfg = model_zoo.get_config(ZOO[name]).model
    net = cfg.backbone.get("bottom_up", cfg.backbone)
    if "stages" in net:
        net.stem.out_channels = 16
        net.stages = L(narrow_stages)(bottleneck="R_50" in ZOO.get(name, ""), norm=net.stem.norm)
    elif name in ZOO:
        net.update(name=name, freeze_at=0, norm="")
    if name == "torchvision 2":
        use_torchvision(cfg, OmegaConf.create({"train": {"mapper": {}}, "test": {"mapper": {}}}), version=2)
        cfg.roi_heads.box_predictor.input_shape.channels = WIDTH
    if "out_channels" in cfg.backbone:
        cfg.backbone.out_channels = WIDTH
    heads = cfg.roi_heads
    if "res5" in heads:
        heads.res5.update(in_channels=64, bottleneck_channels=64, out_channels=128)
        cfg.proposal_generator.head.in_channels = 64
        cfg.backbone.stages.norm = "FrozenBN"
        heads.res5.stride_in_1x1 = True
    elif "out_channels" not in cfg.backbone:
        channels = {"res4": 64, "res5": 128}[cfg.proposal_generator.in_features[0]]
        cfg.proposal_generator.head.in_channels = channels
        heads.box_head.input_shape.channels = heads.mask_head.input_shape.channels = channels
    for key in ("box_head", "mask_head", "keypoint_head"):
        for head in heads.get(key) if OmegaConf.is_list(heads.get(key)) else [heads.get(key) or {}]:
            if "conv_dims" in head:
                head.conv_dims = [WIDTH] * min(len(head.conv_dims), 4)
            if "fc_dims" in head:
                head.fc_dims = [WIDTH] * len(head.fc_dims)
    return cfg


def as_if_trained(model):
    """Random statistics of norms, and predictors that tell classes and pixels apart."""
    for name, module in model.named_modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.5)
            module.weight.uniform_(0.5, 0.9)
            module.bias.normal_(std=0.1)
        elif name.endswith("cls_score"):
            nn.init.normal_(module.weight, std=0.1)
        elif name.endswith(("mask_head.predictor", "point_head.predictor")):
            nn.init.normal_(module.weight, std=0.5)


@functools.cache
def pair(name):
    """A small model and its optimized copy."""
    torch.manual_seed(0)
    model = instantiate(config_of(name)).eval()
    model.mask_format = "raw"
    model.pixel_std.fill_(75.0)
    model.proposal_generator.pre_nms_topk = {True: 100, False: 50}
    model.proposal_generator.post_nms_topk = {True: 100, False: 20}
    predictors = model.roi_heads.box_predictor
    for predictor in predictors if isinstance(predictors, nn.ModuleList) else [predictors]:
        predictor.test_score_thresh, predictor.test_topk_per_image = 0.01, 4
    with torch.no_grad():
        as_if_trained(model)
    return model, mrcnn_plugin.optimize(model)


@torch.no_grad()
def detect(model, inputs):
    return [output["instances"] for output in model(inputs)]


INPUTS = synthetic_inputs([(64, 96), (96, 64)], masks=False)


# Files of code that needs another layout: windows of tokens; points in rows, as grid_sample gives them.
ALLOWED = {
    "mask_rcnn_swin_FPN": {"swin_transformer.py"},
    "point_rend_R_18_FPN": {"point_features.py", "convolution.py"},
}


@pytest.mark.parametrize("name", [*ZOO, *PROJECTS])
class TestEveryModel:
    def test_results(self, name):
        model, faster = pair(name)
        found = 0
        for result, expected in zip(detect(faster, INPUTS), detect(model, INPUTS), strict=True):
            found += len(expected)
            assert result.get_fields().keys() == expected.get_fields().keys()
            assert torch.equal(result.pred_classes, expected.pred_classes)
            torch.testing.assert_close(
                result.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0
            )
            torch.testing.assert_close(result.scores, expected.scores, atol=1e-4, rtol=0)
            if expected.has("pred_masks"):
                torch.testing.assert_close(result.pred_masks, expected.pred_masks, atol=1e-3, rtol=0)
                assert ((result.pred_masks > 0.5) != (expected.pred_masks > 0.5)).float().mean() < 1e-4
            if expected.has("mask_scores"):
                torch.testing.assert_close(result.mask_scores, expected.mask_scores, atol=1e-4, rtol=0)
            if expected.has("pred_keypoints"):
                torch.testing.assert_close(
                    result.pred_keypoint_heatmaps, expected.pred_keypoint_heatmaps, atol=1e-3, rtol=0
                )
        assert found >= 4

    def test_no_map_is_copied_into_another_layout(self, name):
        faster = pair(name)[1]
        with LayoutCopies() as copies:
            detect(faster, INPUTS)
        # The image itself, and logits of one channel.
        allowed = {"optimize.py", "heads.py"}
        places = {re.search(r"(\w+\.py):", place)[1] for place in copies.counts}
        assert places - allowed == ALLOWED.get(name, set()), copies.counts
        assert "optimize.py" in places

    def test_the_model_itself_is_left_alone(self, name):
        model, faster = pair(name)
        storages = {value.untyped_storage().data_ptr() for value in faster.state_dict().values()}
        for value in model.state_dict().values():
            assert value.untyped_storage().data_ptr() not in storages
            assert value.dim() < 4 or value.is_contiguous()
        assert not any(hasattr(module, "after") for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.roi_heads.parameters())
