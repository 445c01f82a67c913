"""The same weights and inputs through Detectron2's own models and ours: losses, gradients, results."""

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

import mrcnn_plugin
from mrcnn_plugin import model_zoo

OURS = {
    "META_ARCHITECTURE": "MaskRCNN",
    "ROI_MASK_HEAD.NAME": "FCNMaskHead",
    "ROI_KEYPOINT_HEAD.NAME": "OneHotKeypointHead",
}
# Settings of Detectron2's zoo files, which an installation does not always hold.
FPN = {
    "BACKBONE.NAME": "build_resnet_fpn_backbone",
    "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "RPN.PRE_NMS_TOPK_TEST": 1000,
    "RPN.POST_NMS_TOPK_TRAIN": 1000,
    "RPN.POST_NMS_TOPK_TEST": 1000,
    "ROI_HEADS.NAME": "StandardROIHeads",
    "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "ROI_BOX_HEAD.NUM_FC": 2,
    "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "ROI_MASK_HEAD.NUM_CONV": 4,
    "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
}
MODELS = {
    "mask_rcnn_R_50_FPN": (
        {**FPN, "MASK_ON": True},
        {**OURS, "ROI_HEADS.NAME": "MaskRCNNROIHeads"},
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py",
    ),
    "mask_rcnn_R_50_C4": (
        {"MASK_ON": True, "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead"},
        {**OURS, "ROI_HEADS.NAME": "MaskRCNNC4ROIHeads"},
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py",
    ),
    "keypoint_rcnn_R_50_FPN": (
        {
            **FPN,
            "KEYPOINT_ON": True,
            "ROI_HEADS.NUM_CLASSES": 1,
            "ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
            "RPN.POST_NMS_TOPK_TRAIN": 1500,
        },
        {**OURS, "ROI_HEADS.NAME": "MaskRCNNROIHeads"},
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py",
    ),
}
# Few RoIs, and detections from untrained weights too: the comparison needs no more. Untrained and without
# batch statistics, a ResNet-50 magnifies its input a thousand times.
PIXEL_STD = [1000.0] * 3
SMALL = {
    "ROI_HEADS.BATCH_SIZE_PER_IMAGE": 12,
    "ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "RPN.POST_NMS_TOPK_TEST": 30,
    "PIXEL_STD": PIXEL_STD,
}


def model_from_keys(keys):
    cfg = get_cfg()
    cfg.merge_from_list([f"MODEL.{k}" if i == 0 else k for kv in keys.items() for i, k in enumerate(kv)])
    cfg.MODEL.DEVICE = "cpu"
    cfg.TEST.DETECTIONS_PER_IMAGE = 12
    return build_model(cfg)


def model_from_file(file):
    cfg = model_zoo.get_config(file).model
    cfg.roi_heads.batch_size_per_image = SMALL["ROI_HEADS.BATCH_SIZE_PER_IMAGE"]
    cfg.roi_heads.box_predictor.update(test_score_thresh=0.0, test_topk_per_image=12)
    cfg.proposal_generator.post_nms_topk = (
        cfg.proposal_generator.post_nms_topk[0],
        SMALL["RPN.POST_NMS_TOPK_TEST"],
    )
    cfg.pixel_std = PIXEL_STD
    return instantiate(cfg)


@pytest.fixture(scope="module", params=MODELS)
def models(request):
    """Detectron2's model and ours by both routes, all with the same weights."""
    theirs, ours, file = MODELS[request.param]
    torch.manual_seed(0)
    reference = model_from_keys({**theirs, **SMALL})
    state = reference.state_dict()
    # The predictors' tiny initial weights would make every mask 0.5 and every score equal; boxes stay near
    # the proposals.
    for name, value in state.items():
        if ("predictor" in name and "bbox_pred" not in name) or "score_lowres" in name:
            value.add_(torch.randn_like(value) * (0.05 if value.dim() > 1 else 0.2))
        if name.endswith("mask_head.predictor.weight"):
            # Else, behind a ReLU, a class is foreground everywhere or nowhere.
            value.sub_(value.mean(dim=1, keepdim=True))
    built = {"YAML": model_from_keys({**theirs, **ours, **SMALL}), "LazyConfig": model_from_file(file)}
    for model in built.values():
        model.load_state_dict(state, strict=True)
    return reference, built


@pytest.fixture(scope="module")
def inputs(batched_inputs, models):
    keypoints = models[0].roi_heads.num_classes == 1
    return batched_inputs(
        [(64, 96), (96, 64)],
        num_classes=models[0].roi_heads.num_classes,
        masks=not keypoints,
        keypoints=keypoints,
    )


def train_step(model, inputs):
    """Losses and the gradients of the heads and of the last backbone layers."""
    model.train()
    model.zero_grad()
    torch.manual_seed(7)
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients


@pytest.fixture(scope="module")
def expected_step(models, inputs):
    return train_step(models[0], inputs)


@pytest.fixture(scope="module")
def expected_results(models, inputs):
    return detect(models[0], inputs)


@torch.no_grad()
def detect(model, inputs):
    return [output["instances"] for output in model.eval()(inputs)]


@pytest.mark.parametrize("route", ["YAML", "LazyConfig"])
class TestParity:
    def test_parameters(self, models, route):
        reference, built = models
        shapes = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
        assert {name: tuple(value.shape) for name, value in built[route].state_dict().items()} == shapes
        frozen = {name for name, p in reference.named_parameters() if not p.requires_grad}
        assert {name for name, p in built[route].named_parameters() if not p.requires_grad} == frozen
        assert isinstance(built[route], mrcnn_plugin.modeling.MaskRCNN)

    def test_losses_and_gradients(self, models, inputs, expected_step, route):
        expected_losses, expected_gradients = expected_step
        losses, gradients = train_step(models[1][route], inputs)
        assert losses == pytest.approx(expected_losses, abs=1e-4)
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            expected = expected_gradients[name]
            # Looser than the losses: in some place rounding decides on which side of a ReLU a unit is.
            assert (gradient - expected).norm() <= 5e-3 * expected.norm() + 1e-6, name

    def test_results(self, models, inputs, expected_results, route):
        for result, expected in zip(detect(models[1][route], inputs), expected_results):
            assert len(result) == len(expected) >= 4
            assert result.get_fields().keys() == expected.get_fields().keys()
            torch.testing.assert_close(
                result.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0
            )
            torch.testing.assert_close(result.scores, expected.scores, atol=1e-3, rtol=0)
            assert torch.equal(result.pred_classes, expected.pred_classes)
            if result.has("pred_masks"):
                # A pixel exactly at the threshold may fall to either side.
                different = (result.pred_masks != expected.pred_masks).float().mean()
                assert 0.005 < expected.pred_masks.float().mean() < 0.5
                assert different < 1e-4
            else:
                torch.testing.assert_close(result.pred_keypoints, expected.pred_keypoints, atol=1e-3, rtol=0)
                torch.testing.assert_close(
                    result.pred_keypoint_heatmaps, expected.pred_keypoint_heatmaps, atol=1e-3, rtol=1e-3
                )
