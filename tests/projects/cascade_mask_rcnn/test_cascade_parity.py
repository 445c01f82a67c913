"""The same weights and inputs through Detectron2's CascadeROIHeads and ours: losses, gradients, results."""

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.modeling.backbone import ResNet
from helpers.training import synthetic_inputs, train_step

from mrcnn_plugin.projects import cascade_mask_rcnn

CONFIG = "{}/configs/COCO-InstanceSegmentation/cascade_mask_rcnn_R_50_FPN_1x.py"
# Those of Detectron2's Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml, with a smaller ResNet and fewer RoIs.
KEYS = {
    "BACKBONE.NAME": "build_resnet_fpn_backbone",
    "RESNETS.DEPTH": 18,
    "RESNETS.RES2_OUT_CHANNELS": 64,
    "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "RPN.PRE_NMS_TOPK_TEST": 1000,
    "RPN.POST_NMS_TOPK_TRAIN": 2000,
    "RPN.POST_NMS_TOPK_TEST": 30,
    "MASK_ON": True,
    "ROI_HEADS.NAME": "CascadeROIHeads",
    "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "ROI_HEADS.BATCH_SIZE_PER_IMAGE": 24,
    "ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
    "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "ROI_BOX_HEAD.NUM_FC": 2,
    "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "ROI_MASK_HEAD.NUM_CONV": 4,
    "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    # Untrained and without batch statistics, a ResNet magnifies its input many times.
    "PIXEL_STD": [1000.0] * 3,
}
OURS = {
    "META_ARCHITECTURE": "MaskRCNN",
    "ROI_HEADS.NAME": "CascadeMaskRCNNROIHeads",
    "ROI_MASK_HEAD.NAME": "FCNMaskHead",
}


def model_from_keys(keys):
    cfg = get_cfg()
    cascade_mask_rcnn.add_cascade_config(cfg)
    cfg.merge_from_list([f"MODEL.{k}" if i == 0 else k for kv in keys.items() for i, k in enumerate(kv)])
    cfg.MODEL.DEVICE = "cpu"
    cfg.TEST.DETECTIONS_PER_IMAGE = 12
    return build_model(cfg)


def model_from_file():
    cfg = LazyConfig.load(CONFIG.format(cascade_mask_rcnn.__path__[0])).model
    cfg.backbone.bottom_up.stages = L(ResNet.make_default_stages)(depth=18, norm="FrozenBN")
    cfg.roi_heads.batch_size_per_image = KEYS["ROI_HEADS.BATCH_SIZE_PER_IMAGE"]
    for predictor in cfg.roi_heads.box_predictors:
        predictor.update(test_score_thresh=0.0, test_topk_per_image=12)
    cfg.proposal_generator.post_nms_topk = (2000, KEYS["RPN.POST_NMS_TOPK_TEST"])
    cfg.pixel_std = KEYS["PIXEL_STD"]
    return instantiate(cfg)


@pytest.fixture(scope="module")
def models():
    """Detectron2's model and ours by both routes, all with the same weights."""
    torch.manual_seed(0)
    reference = model_from_keys(KEYS)
    state = reference.state_dict()
    # The predictors' tiny initial weights would make every mask 0.5, every score equal, every box stay.
    for name, value in state.items():
        if "predictor" in name:
            value.add_(torch.randn_like(value) * (0.03 if value.dim() > 1 else 0.2))
    built = {"YAML": model_from_keys({**KEYS, **OURS}), "LazyConfig": model_from_file()}
    for model in built.values():
        model.load_state_dict(state, strict=True)
    return reference, built


@pytest.fixture(scope="module")
def inputs():
    return synthetic_inputs([(64, 96), (96, 64)])


@pytest.fixture(scope="module")
def expected_step(models, inputs):
    return train_step(models[0], inputs)


@torch.no_grad()
def detect(model, inputs):
    return [output["instances"] for output in model.eval()(inputs)]


@pytest.fixture(scope="module")
def expected_results(models, inputs):
    return detect(models[0], inputs)


@pytest.mark.parametrize("route", ["YAML", "LazyConfig"])
class TestParity:
    def test_parameters(self, models, route):
        reference, built = models
        shapes = {name: tuple(value.shape) for name, value in reference.state_dict().items()}
        assert {name: tuple(value.shape) for name, value in built[route].state_dict().items()} == shapes
        for ours, theirs in zip(built[route].roi_heads.box_predictor, reference.roi_heads.box_predictor):
            assert list(ours.box2box_transform.weights) == list(theirs.box2box_transform.weights)

    def test_losses_and_gradients(self, models, inputs, expected_step, route):
        expected_losses, expected_gradients, expected_logged = expected_step
        losses, gradients, logged = train_step(models[1][route], inputs)
        assert {"loss_box_reg_stage2", "loss_cls_stage1", "loss_mask"} < expected_losses.keys()
        torch.testing.assert_close(losses, expected_losses, atol=1e-4, rtol=0)
        for stage in (1, 2):
            positives = f"stage{stage}/roi_head/num_fg_samples"
            assert logged[positives] == expected_logged[positives]
        assert gradients.keys() == expected_gradients.keys()
        for name, gradient in gradients.items():
            expected = expected_gradients[name]
            # Looser than the losses: in some place rounding decides on which side of a ReLU a unit is.
            assert (gradient - expected).norm() <= 5e-3 * expected.norm() + 1e-6, name

    def test_results(self, models, inputs, expected_results, route):
        for result, expected in zip(detect(models[1][route], inputs), expected_results, strict=True):
            assert len(result) == len(expected) >= 4
            assert result.get_fields().keys() == expected.get_fields().keys()
            torch.testing.assert_close(
                result.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3, rtol=0
            )
            torch.testing.assert_close(result.scores, expected.scores, atol=1e-4, rtol=0)
            assert torch.equal(result.pred_classes, expected.pred_classes)
            # A pixel exactly at the threshold may fall to either side.
            different = (result.pred_masks != expected.pred_masks).float().mean()
            assert 0.005 < expected.pred_masks.float().mean() < 0.9
            assert different < 1e-3
