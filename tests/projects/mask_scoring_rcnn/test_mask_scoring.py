"""The MaskIoU head and the RoI heads around it: training, scores, results in both forms of masks."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.training import synthetic_inputs, train_step

import mrcnn_plugin.projects as projects
from mrcnn_plugin.evaluation.coco_evaluation import instances_to_coco_json
from mrcnn_plugin.projects.mask_scoring_rcnn import (
    MaskIoUHead,
    MaskScoringROIHeads,
    add_mask_scoring_config,
)

CONFIG = "mask_scoring_rcnn/configs/Shapes/mask_scoring_rcnn_R_18_FPN.py"
SHAPE = ShapeSpec(channels=3, height=14, width=14)


@pytest.fixture(scope="module")
def model(small_model):
    return small_model(CONFIG)


def test_the_mask_is_max_pooled_beside_the_features():
    head = MaskIoUHead(SHAPE, num_classes=2, conv_dims=[1, 1], fc_dims=[])
    weight = head.maskiou_fcn1.weight.data.zero_()
    weight[0, -1, 1, 1] = 1
    seen = []
    head.maskiou_fcn1.register_forward_hook(lambda module, args, output: seen.append(output))
    masks = torch.rand(2, 1, 28, 28)
    head(torch.randn(2, 3, 14, 14), masks, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(seen[0], masks.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5)))


def test_head_follows_the_paper():
    head = MaskIoUHead(ShapeSpec(channels=256, height=14, width=14), num_classes=80)
    shapes = {name: tuple(p.shape) for name, p in head.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "maskiou_fcn1.weight": (256, 257, 3, 3),
        "maskiou_fcn2.weight": (256, 256, 3, 3),
        "maskiou_fcn3.weight": (256, 256, 3, 3),
        "maskiou_fcn4.weight": (256, 256, 3, 3),
        "maskiou_fc1.weight": (1024, 256 * 7 * 7),
        "maskiou_fc2.weight": (1024, 1024),
        "maskiou.weight": (80, 1024),
    }


def test_head_chooses_the_class():
    head = MaskIoUHead(SHAPE, num_classes=3, conv_dims=[4], fc_dims=[8])
    head.maskiou.weight.data.zero_()
    head.maskiou.bias.data = torch.tensor([0.1, 0.2, 0.3])
    iou = head(torch.randn(4, 3, 14, 14), torch.rand(4, 1, 28, 28), torch.tensor([2, 0, 1, 1]))
    assert iou.tolist() == pytest.approx([0.3, 0.1, 0.2, 0.2])
    assert head(torch.zeros(0, 3, 14, 14), torch.zeros(0, 1, 28, 28), torch.zeros(0).long()).shape == (0,)


def test_score_is_class_score_times_iou(model):
    heads = model.roi_heads.eval()
    torch.manual_seed(1)
    features = {f"p{i}": torch.randn(2, 64, 160 // 2**i, 160 // 2**i) for i in range(2, 6)}
    detections = []
    for scores in ([0.9, 0.6, 0.5], []):
        n = len(scores)
        boxes = Boxes(torch.tensor([[8.0, 8.0, 60.0, 90.0]] * n).reshape(n, 4))
        fields = {"scores": torch.tensor(scores), "pred_classes": torch.tensor([0, 2, 3][:n]).long()}
        detections.append(Instances((160, 160), pred_boxes=boxes, **fields))
    iou = torch.tensor([0.5, -0.1, 0.8])
    given = []
    hook = heads.mask_iou_head.register_forward_hook(lambda m, args, out: given.append(args) or iou)
    with torch.no_grad():
        results = heads.forward_with_given_boxes(features, detections)
    hook.remove()
    assert results[0].mask_scores.tolist() == pytest.approx([0.45, -0.06, 0.4])
    assert results[0].scores.tolist() == pytest.approx([0.9, 0.6, 0.5])
    assert results[1].mask_scores.shape == (0,)
    # The head saw the probabilities of the predicted class, and that class.
    assert torch.equal(given[0][1], results[0].pred_masks)
    assert given[0][2].tolist() == [0, 2, 3]


@pytest.mark.parametrize("mask_format", ["bitmask", "rle"])
def test_results_in_both_forms(model, mask_format):
    model.eval()
    model.mask_format = mask_format
    inputs = synthetic_inputs([(64, 64), (96, 64)], num_classes=4)
    inputs[1]["height"] = 50
    with torch.no_grad():
        outputs = model(inputs)
    assert len(outputs) == len(inputs)
    for output in outputs:
        instances = output["instances"]
        assert len(instances) > 0
        assert instances.mask_scores.shape == instances.scores.shape
        assert not torch.equal(instances.mask_scores, instances.scores)
        for i, result in enumerate(instances_to_coco_json(instances, 7)):
            assert result["score"] == instances.scores[i].item()
            assert result["mask_score"] == instances.mask_scores[i].item()
            assert result["segmentation"]["size"] == list(instances.image_size)


def test_training(model):
    losses = train_step(model, synthetic_inputs([(64, 64)] * 2, num_classes=4)).losses
    assert {"loss_mask", "loss_mask_iou"} <= set(losses)
    # Untrained, it predicts about 0.
    assert 0 < losses["loss_mask_iou"] <= 1
    assert all(p.grad is not None for p in model.roi_heads.parameters())
    assert model.roi_heads.mask_iou_head.maskiou_fcn1.weight.grad.any()


def test_the_iou_loss_reaches_the_mask_head(model):
    model.train()
    model.zero_grad()
    with EventStorage():
        model(synthetic_inputs([(64, 64)] * 2, num_classes=4))["loss_mask_iou"].backward()
    assert model.roi_heads.mask_head.predictor.weight.grad.any()


def test_under_bfloat16_the_losses_are_float32(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_step(model, synthetic_inputs([(64, 64)] * 2, num_classes=4)).losses
    assert losses["loss_mask_iou"].dtype == torch.float32
    assert torch.isfinite(losses["loss_mask_iou"])


def test_images_that_lack_masks_train(model, lacking_masks):
    inputs, learns = lacking_masks
    losses = train_step(model, inputs).losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert (losses["loss_mask_iou"] > 0) == learns
    assert all(p.grad is not None for p in model.roi_heads.mask_iou_head.parameters())


def test_from_yaml_keys():
    cfg = get_cfg()
    add_mask_scoring_config(cfg)
    cfg.merge_from_list(
        ["MODEL.MASK_ON", True, "MODEL.ROI_HEADS.NAME", "MaskScoringROIHeads"]
        + ["MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3"], "MODEL.ROI_MASK_HEAD.NAME", "FCNMaskHead"]
        + ["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1]
        + ["MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8]
        + ["MODEL.ROI_MASK_IOU_HEAD.CONV_DIM", 4, "MODEL.ROI_MASK_IOU_HEAD.FC_DIM", 6]
    )
    shapes = {"p2": ShapeSpec(channels=8, stride=4), "p3": ShapeSpec(channels=8, stride=8)}
    heads = build_roi_heads(cfg, shapes)
    assert isinstance(heads, MaskScoringROIHeads)
    state = {name: tuple(p.shape) for name, p in heads.mask_iou_head.named_parameters()}
    assert state["maskiou_fcn1.weight"] == (4, 9, 3, 3)
    assert state["maskiou_fc1.weight"] == (6, 4 * 7 * 7)
    assert state["maskiou.weight"] == (80, 6)


def test_errors():
    with pytest.raises(ValueError, match="conv_dims must hold"):
        MaskIoUHead(SHAPE, num_classes=2, conv_dims=[])
    cfg = LazyConfig.load(str(Path(projects.__path__[0], CONFIG))).model
    cfg.roi_heads.mask_head._target_ = MaskRCNNConvUpsampleHead
    with pytest.raises(ValueError, match=r"masks_of.*such as FCNMaskHead, got MaskRCNNConvUpsampleHead"):
        instantiate(cfg)
