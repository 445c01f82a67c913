"""The RPN and the box predictor against Detectron2's, module by module, on random inputs."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

from mrcnn_plugin.modeling import BoxPredictor, MaskRCNNRPN

SIZES = [(60, 64), (48, 50)]
NUM_CLASSES = 3


def rpn(cls, **kwargs):
    torch.manual_seed(0)
    head = StandardRPNHead(in_channels=4, num_anchors=2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return cls(
        in_features=["a", "b"],
        head=head,
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[12], [24]], aspect_ratios=[0.5, 2.0], strides=[4, 8], offset=0.0
        ),
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_topk=(60, 40),
        post_nms_topk=(25, 15),
        **kwargs,
    )


def boxes_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 30
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 20], dim=1)


def rpn_inputs(truths=(3, 0)):
    generator = torch.Generator().manual_seed(1)
    features = {
        name: torch.randn(2, 4, 64 // stride, 64 // stride, generator=generator)
        for name, stride in (("a", 4), ("b", 8))
    }
    images = ImageList(torch.zeros(2, 3, 64, 64), SIZES)
    truth = [
        Instances(size, gt_boxes=Boxes(boxes_of(count, i)))
        for i, (size, count) in enumerate(zip(SIZES, truths))
    ]
    return images, features, truth


def run(module, images, features, truth):
    torch.manual_seed(5)
    with EventStorage() as storage:
        proposals, losses = module(images, features, truth)
        logged = {name: value for name, (value, _) in storage.latest().items()}
    sum(losses.values()).backward()
    return proposals, losses, logged, [p.grad for p in module.parameters()]


OPTIONS = [
    {},
    {"min_box_size": 6.0, "nms_thresh": 0.3},
    {"box_reg_loss_type": "giou", "loss_weight": {"loss_rpn_cls": 0.5}},
    {"smooth_l1_beta": 0.1, "anchor_boundary_thresh": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rpn_in_training(options):
    results = [run(rpn(cls, **options).train(), *rpn_inputs()) for cls in (MaskRCNNRPN, RPN)]
    (proposals, losses, logged, gradients), (others, expected, expected_log, expected_gradients) = results
    torch.testing.assert_close(losses, expected)
    assert losses["loss_rpn_loc"] > 0
    assert logged == expected_log
    torch.testing.assert_close(gradients, expected_gradients)
    same(proposals, others, "objectness_logits", "proposal_boxes")


@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_rpn_in_inference(options):
    images, features, _ = rpn_inputs()
    features["a"][0, 0, 0, 0] = torch.nan
    with torch.no_grad():
        ours, theirs = (rpn(cls, **options).eval()(images, features)[0] for cls in (MaskRCNNRPN, RPN))
    assert 0 < len(ours[0]) <= 15
    same(ours, theirs, "objectness_logits", "proposal_boxes")


def test_training_that_diverges_is_said():
    images, features, truth = rpn_inputs()
    features["b"][1] = torch.nan
    with EventStorage(), pytest.raises(FloatingPointError, match="diverged"):
        rpn(MaskRCNNRPN).train()(images, features, truth)


def test_rpn_on_images_without_objects():
    _, losses, _, gradients = run(rpn(MaskRCNNRPN).train(), *rpn_inputs(truths=(0, 0)))
    assert losses["loss_rpn_loc"] == 0
    assert all(gradient.isfinite().all() for gradient in gradients)


def same(ours, theirs, score, boxes):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.image_size == other.image_size
        assert len(one) == len(other)
        torch.testing.assert_close(one.get(score), other.get(score))
        torch.testing.assert_close(one.get(boxes).tensor, other.get(boxes).tensor)


def predictor(cls, **kwargs):
    return cls(
        ShapeSpec(channels=6),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=NUM_CLASSES,
        **kwargs,
    )


def predictions(count, per_class=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    columns = 4 * NUM_CLASSES if per_class else 4
    return (
        torch.randn(count, NUM_CLASSES + 1, generator=generator).requires_grad_(),
        torch.randn(count, columns, generator=generator).requires_grad_(),
    )


def labelled():
    proposals = []
    for i, (size, classes) in enumerate(zip(SIZES, ([0, 2, 3, 3, 1, 3], [3, 3, 3]))):
        image = Instances(size, proposal_boxes=Boxes(boxes_of(len(classes), i)))
        image.gt_classes = torch.tensor(classes)
        if i == 0:
            image.gt_boxes = Boxes(boxes_of(len(classes), 7))
        proposals.append(image)
    return proposals


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"box_reg_loss_type": "ciou"}, {"loss_weight": {"loss_box_reg": 2.0}}]
)
def test_losses_of_boxes(options, per_class):
    found = []
    for cls in (BoxPredictor, FastRCNNOutputLayers):
        both = predictions(9, per_class)
        module = predictor(cls, cls_agnostic_bbox_reg=not per_class, **options)
        with EventStorage() as storage:
            losses = module.losses(both, labelled())
            logged = {name: value for name, (value, _) in storage.latest().items()}
        sum(losses.values()).backward()
        found.append((losses, [one.grad for one in both], logged))
    ours, theirs = found
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1])
    assert ours[2] == theirs[2]
    assert ours[2].keys() >= {"fast_rcnn/cls_accuracy", "fast_rcnn/false_negative"}


def test_background_boxes_without_area_do_no_harm():
    proposals = labelled()
    proposals[1].proposal_boxes.tensor[:] = 0.0
    both = predictions(9)
    with EventStorage():
        sum(predictor(BoxPredictor).losses(both, proposals).values()).backward()
    assert both[1].grad.isfinite().all()


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"test_score_thresh": 0.5}, {"test_topk_per_image": -1}, {"test_score_thresh": 1.0}]
)
def test_detections(options, per_class):
    options = {"test_score_thresh": 0.05, "test_topk_per_image": 20, **options}
    proposals = [
        Instances(size, proposal_boxes=Boxes(boxes_of(count, i)))
        for i, (size, count) in enumerate(zip(SIZES, (30, 5)))
    ]
    both = tuple(one.detach() for one in predictions(35, per_class, seed=3))
    both[0][4] = torch.nan
    both[1][9, 1] = torch.inf
    (ours, rois), (theirs, expected) = (
        predictor(cls, cls_agnostic_bbox_reg=not per_class, **options).inference(both, proposals)
        for cls in (BoxPredictor, FastRCNNOutputLayers)
    )
    same(ours, theirs, "scores", "pred_boxes")
    # Detectron2 counts RoIs without those that are not finite.
    counted = [torch.tensor([i for i in range(30) if i not in (4, 9)]), torch.arange(5)]
    for one, other, roi, expected_roi, rows in zip(ours, theirs, rois, expected, counted, strict=True):
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert torch.equal(roi, rows[expected_roi])
