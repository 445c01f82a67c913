"""Optimized copies give the detector's results, copy no maps, and leave the detector alone."""

import functools
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2 import layers
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
from mrcnn_plugin.ops import has_matrix_tiles
from mrcnn_plugin.optimization import LayoutCopies, precision
from mrcnn_plugin.optimization.convolution import FusedConv2d

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

    def test_nothing_found(self, name, monkeypatch):
        faster = pair(name)[1]
        for module in faster.modules():
            if hasattr(module, "test_score_thresh"):
                monkeypatch.setattr(module, "test_score_thresh", 2.0)
        assert [len(result) for result in detect(faster, INPUTS)] == [0, 0]


def agreeing(result, expected):
    """The share of detections that the other has within some pixels, with a score that is nearly equal."""
    if not len(expected):
        return 1.0
    apart = (result.pred_boxes.tensor[:, None] - expected.pred_boxes.tensor).abs().amax(dim=2)
    near = (result.scores[:, None] - expected.scores).abs() < 0.05
    same = result.pred_classes[:, None] == expected.pred_classes
    return float(((apart < 4) & near & same).any(dim=0).float().mean())


@pytest.mark.parametrize("name", [*ZOO, *PROJECTS])
def test_bfloat16(name):
    """Dense parts compute in it, all results are float32, and most of the detections are the same."""
    model = pair(name)[0]
    low = mrcnn_plugin.optimize(model, precision="bfloat16")
    maps = low.backbone(torch.zeros(1, 3, 64, 64))
    assert {one.dtype for one in maps.values()} == {torch.bfloat16}
    shares = []
    for result, expected in zip(detect(low, INPUTS), detect(model, INPUTS), strict=True):
        shares.append(agreeing(result, expected))
        for field in result.get_fields().values():
            value = getattr(field, "tensor", field)
            assert value.dtype in (torch.float32, torch.int64), value.dtype
    assert sum(shares) / 2 > 0.5


def test_precisions_that_cannot_be():
    with pytest.raises(
        ValueError, match="precision must be one of 'auto', 'float32', 'bfloat16', got 'half'"
    ):
        mrcnn_plugin.optimize(pair("MLP")[0], precision="half")
    with pytest.raises(ValueError, match="the model is an optimized copy"):
        mrcnn_plugin.optimize(pair("MLP")[1], precision="bfloat16")


@pytest.mark.parametrize(("gain", "chosen"), [(3.0, "bfloat16"), (1.2, "float32")])
def test_auto_takes_bfloat16_where_it_is_found_faster(monkeypatch, gain, chosen):
    assert 0 <= precision.measure_bfloat16_gain() < 100
    monkeypatch.setattr(precision, "measure_bfloat16_gain", lambda: gain)
    faster = mrcnn_plugin.optimize(pair("MLP")[0], precision="auto")
    assert next(faster.backbone.parameters()).dtype == getattr(torch, chosen)
    assert next(faster.roi_heads.box_predictor.parameters()).dtype == torch.float32


def test_an_optimized_copy_is_copied_as_it_is():
    faster = pair("MLP")[1]
    again = mrcnn_plugin.optimize(faster)
    assert again is not faster
    for result, expected in zip(detect(again, INPUTS), detect(faster, INPUTS), strict=True):
        assert torch.equal(result.pred_masks, expected.pred_masks)


def test_an_optimized_copy_refuses_to_train():
    faster = mrcnn_plugin.optimize(pair("MLP")[1]).train()
    with pytest.raises(RuntimeError, match="train the one that it is of"):
        faster(INPUTS)


def test_without_winograd_there_are_no_transformed_weights():
    model = pair("FPN")[0]
    exact = mrcnn_plugin.optimize(model, winograd=False, matrix_tiles=False)
    convs = [module for module in exact.modules() if isinstance(module, FusedConv2d)]
    assert len(convs) > 20
    assert all(conv.transformed is conv.split is None for conv in convs)
    faster = mrcnn_plugin.optimize(model, matrix_tiles=False).proposal_generator.rpn_head.conv
    assert faster.transformed.shape == (36, WIDTH, WIDTH)
    for result, expected in zip(detect(exact, INPUTS), detect(model, INPUTS), strict=True):
        torch.testing.assert_close(result.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-4, rtol=0)


@pytest.mark.skipif(not has_matrix_tiles(), reason="this processor has no matrix tiles")
def test_matrix_tiles_compute_what_the_layers_do(monkeypatch):
    faster = pair("FPN")[1]
    head = faster.roi_heads.mask_head
    assert head.mask_fcn1.split is not None
    assert head.deconv.split is not None
    assert faster.proposal_generator.rpn_head.conv.split is not None
    torch.manual_seed(0)
    block = BottleneckBlock(128, 256, bottleneck_channels=128, stride=2, norm="FrozenBN").eval()
    model = nn.Module()
    model.backbone = nn.Sequential(block)
    x = torch.randn(2, 128, 11, 13)
    with torch.no_grad():
        fast = mrcnn_plugin.optimize(model).backbone
        assert all(getattr(fast[0], name).split is not None for name in ("conv1", "conv3", "shortcut"))
        expected = block(x)
        for _ in range(2):
            assert (fast(x) - expected).norm() < 2e-5 * expected.norm()
            # As on a processor that has none.
            monkeypatch.setenv("MRCNN_PLUGIN_SIMD", "avx2")
        # Weights that changed their dtype on the way are not the split ones any more.
        monkeypatch.delenv("MRCNN_PLUGIN_SIMD")
        fast.double().float()
        assert (fast(x) - expected).norm() < 2e-5 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_take_the_ordinary_convolution(dtype):
    conv = layers.Conv2d(16, 8, 3, padding=1, norm=nn.BatchNorm2d(8), activation=F.relu).eval().to(dtype)
    x = torch.randn(1, 16, 9, 9, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(mrcnn_plugin.optimize(conv)(x), conv(x), atol=0.05, rtol=0.05)


class Shared(nn.Module):
    """A network in which a norm is not the only reader of a convolution, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(3) for _ in range(3))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        read_twice = self.first(x)
        x = self.norm1(read_twice) + read_twice
        x = self.norm2(self.second(x)) + self.norm2(self.second(x + 1))
        return self.act(self.norm3(self.third(x)))


def test_only_norms_that_follow_alone_are_folded():
    torch.manual_seed(0)
    model = nn.Module()
    model.backbone = Shared().eval()
    with torch.no_grad():
        as_if_trained(model)
    faster = mrcnn_plugin.optimize(model).backbone
    kinds = {name: type(getattr(faster, name)) for name in ("norm1", "norm2", "norm3", "act")}
    assert kinds == {
        "norm1": nn.BatchNorm2d,
        "norm2": nn.BatchNorm2d,
        "norm3": nn.Identity,
        "act": nn.Identity,
    }
    assert faster.third.after.name == "relu"
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(faster(x), model.backbone(x), atol=1e-5, rtol=0)


class TestLayoutCopies:
    def test_explicit_copies_and_those_inside_convolutions_count(self):
        first = torch.randn(2, 8, 6, 6)
        last = first.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(8, 8, 3, 3).contiguous(memory_format=torch.channels_last)
        with LayoutCopies() as copies:
            F.conv2d(last, weight)
            last.flatten(2)
            last.clone()
        assert not copies.counts
        with LayoutCopies() as copies:
            F.conv2d(first, weight)
            last.contiguous()
            torch.cat([first, last], dim=1)
            last.flatten(1)
        assert sum(copies.counts.values()) == 4
        assert all("test_optimize.py" in place for place in copies.counts)

    def test_small_ones_can_be_left_out(self):
        x = torch.randn(1, 4, 3, 3).contiguous(memory_format=torch.channels_last)
        with LayoutCopies(least=37) as copies:
            x.contiguous()
        assert copies.elements == 0
        with LayoutCopies(least=36) as copies:
            x.contiguous()
        assert copies.elements == 36
