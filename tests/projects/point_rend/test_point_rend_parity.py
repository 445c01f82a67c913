"""The same weights and inputs through Detectron2's PointRend and ours: losses, gradients, results."""

import re

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import BitMasks
from helpers.training import synthetic_inputs, train_step

from mrcnn_plugin import model_zoo
from mrcnn_plugin.projects.point_rend import PointMaskHead, PointMaskROIHeads

CONFIG = "projects/point_rend/configs/COCO-InstanceSegmentation/point_rend_R_50_FPN_1x.py"
CLASSES = 5
# Detectron2's Base-RCNN-FPN.yaml and Base-PointRend-RCNN-FPN.yaml, at a reduced size.
KEYS = {
    "BACKBONE.NAME": "build_resnet_fpn_backbone",
    "RESNETS.DEPTH": 18,
    "RESNETS.RES2_OUT_CHANNELS": 64,
    "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.OUT_CHANNELS": 32,
    "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "RPN.PRE_NMS_TOPK_TRAIN": 100,
    "RPN.POST_NMS_TOPK_TEST": 30,
    "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "ROI_HEADS.NUM_CLASSES": CLASSES,
    "ROI_HEADS.BATCH_SIZE_PER_IMAGE": 12,
    "ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "ROI_BOX_HEAD.NUM_FC": 2,
    "ROI_BOX_HEAD.FC_DIM": 32,
    "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
    "MASK_ON": True,
    "ROI_MASK_HEAD.POOLER_TYPE": "",
    "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "ROI_MASK_HEAD.CONV_DIM": 16,
    "ROI_MASK_HEAD.FC_DIM": 32,
    "ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION": 7,
    "ROI_MASK_HEAD.IN_FEATURES": ["p2"],
    "ROI_MASK_HEAD.POINT_HEAD_ON": True,
    "POINT_HEAD.NUM_CLASSES": CLASSES,
    "POINT_HEAD.FC_DIM": 16,
    "POINT_HEAD.IN_FEATURES": ["p2"],
    "POINT_HEAD.SUBDIVISION_NUM_POINTS": 100,
    # Untrained and without batch statistics, a ResNet magnifies its input a thousand times.
    "PIXEL_STD": [1000.0] * 3,
}
THEIRS = {"ROI_HEADS.NAME": "PointRendROIHeads", "ROI_MASK_HEAD.NAME": "PointRendMaskHead"}
OURS = {"META_ARCHITECTURE": "MaskRCNN", "ROI_HEADS.NAME": "PointMaskROIHeads"}
OURS["ROI_MASK_HEAD.NAME"] = "PointMaskHead"


def build(keys):
    cfg = get_cfg()
    add_pointrend_config(cfg)
    for name, value in {**KEYS, **keys}.items():
        cfg.merge_from_list([f"MODEL.{name}", value])
    cfg.MODEL.DEVICE = "cpu"
    cfg.TEST.DETECTIONS_PER_IMAGE = 6
    return build_model(cfg)


@pytest.fixture(scope="module", params=[False, True], ids=["per class", "class-agnostic points"])
def models(request):
    torch.manual_seed(0)
    agnostic = {"POINT_HEAD.CLS_AGNOSTIC_MASK": request.param}
    theirs, ours = build({**THEIRS, **agnostic}), build({**OURS, **agnostic})
    state = theirs.state_dict()
    # The predictors' tiny initial weights would make every mask 0.5 and every score equal.
    for name, value in state.items():
        if re.search(r"cls_score|prediction|predictor\.(weight|bias)", name):
            value.add_(torch.randn_like(value) * 0.3)
    ours.load_state_dict(state, strict=True)
    return theirs, ours


@pytest.fixture
def inputs():
    inputs = synthetic_inputs([(64, 96), (96, 64)], num_classes=CLASSES)
    for image in inputs:
        instances = image["instances"]
        instances.gt_masks = BitMasks.from_polygon_masks(instances.gt_masks, *instances.image_size)
    return inputs


def test_losses_and_gradients(models, inputs):
    # The random points are drawn in the same order, so they are the same.
    expected, expected_gradients, _ = train_step(models[0], inputs)
    losses, gradients, _ = train_step(models[1], inputs)
    assert set(losses) == set(expected) > {"loss_mask", "loss_mask_point"}
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        difference = (gradient - expected_gradients[name]).norm()
        assert difference <= 5e-3 * expected_gradients[name].norm() + 1e-6, name


def test_results(models, inputs):
    with torch.no_grad():
        theirs, ours = (
            model.eval().inference(model_inputs, do_postprocess=False)
            for model, model_inputs in zip(models, (inputs, inputs))
        )
    for result, expected in zip(ours, theirs, strict=True):
        assert len(result) == len(expected) >= 3
        torch.testing.assert_close(result.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0)
        assert torch.equal(result.pred_classes, expected.pred_classes)
        assert result.pred_masks.shape == expected.pred_masks.shape == (len(result), 1, 224, 224)
        assert 0.02 < (expected.pred_masks > 0.5).float().mean() < 0.98
        # Where two points are equally uncertain, rounding decides which is refined.
        close = torch.isclose(result.pred_masks, expected.pred_masks, atol=1e-3, rtol=0)
        assert close.float().mean() > 0.999


def test_full_size_config_has_the_parameters_of_detectron2():
    cfg = get_cfg()
    add_pointrend_config(cfg)
    full = {**KEYS, **THEIRS, "RESNETS.DEPTH": 50, "RESNETS.RES2_OUT_CHANNELS": 256}
    full |= {"FPN.OUT_CHANNELS": 256, "ROI_HEADS.NUM_CLASSES": 80, "POINT_HEAD.NUM_CLASSES": 80}
    full |= {"ROI_BOX_HEAD.FC_DIM": 1024, "ROI_MASK_HEAD.CONV_DIM": 256, "ROI_MASK_HEAD.FC_DIM": 1024}
    full |= {"POINT_HEAD.FC_DIM": 256}
    for name, value in full.items():
        cfg.merge_from_list([f"MODEL.{name}", value])
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        theirs = build_model(cfg)
        ours = instantiate(model_zoo.get_config(CONFIG).model)
    shapes = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == shapes
    assert isinstance(ours.roi_heads, PointMaskROIHeads)
    assert isinstance(ours.roi_heads.mask_head, PointMaskHead)


def test_older_parameter_names_of_the_zoo_load(models):
    """Detectron2's published PointRend weights bear the names of its first release."""
    _, ours = models
    old = {}
    for name, value in ours.state_dict().items():
        name = name.replace("mask_head.point_head", "mask_point_head")
        name = re.sub(r"mask_head\.coarse_head\.fc(\d)", r"mask_coarse_head.coarse_mask_fc\1", name)
        old[name.replace("mask_head.coarse_head", "mask_coarse_head")] = torch.full_like(value, 0.5)
    assert not any("mask_head." in name for name in old)
    agnostic = ours.roi_heads.mask_head.point_head.predictor.out_channels == 1
    target = build({**OURS, "POINT_HEAD.CLS_AGNOSTIC_MASK": agnostic})
    result = target.load_state_dict(old, strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert (target.roi_heads.mask_head.point_head.predictor.weight == 0.5).all()
    assert (target.roi_heads.mask_head.coarse_head.fc1.weight == 0.5).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ROI_MASK_HEAD.POINT_HEAD_ON": False}, "POINT_HEAD_ON must be True"),
        (
            {"POINT_HEAD.NAME": "ImplicitPointHead"},
            "must be 'StandardPointHead'.*got 'ImplicitPointHead'",
        ),
    ],
)
def test_keys_of_other_point_heads_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        build({**OURS, **keys})
