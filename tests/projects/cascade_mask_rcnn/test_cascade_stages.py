"""Stages of a cascade by hand: labels at rising IoU, deltas in the stages' weights, averages, mask heads."""

import math

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers.training import synthetic_inputs
from omegaconf import OmegaConf

from mrcnn_plugin.predict.predictor import build_predictor
from mrcnn_plugin.projects import cascade_mask_rcnn
from mrcnn_plugin.projects.cascade_mask_rcnn import label_proposals, with_gt_masks
from mrcnn_plugin.projects.cascade_mask_rcnn.roi_heads import average_masks

CONFIGS = cascade_mask_rcnn.__path__[0] + "/configs"
PLAIN = f"{CONFIGS}/Shapes/cascade_mask_rcnn_R_18_FPN.py"
NUM_CLASSES = 4


@pytest.fixture(autouse=True)
def _events(event_storage):
    """Losses log to the storage."""


def small_model(*overrides, mask_stages=(0,)):
    cfg = LazyConfig.load(PLAIN)
    cfg.model.proposal_generator.update(pre_nms_topk=(100, 100), post_nms_topk=(30, 20))
    heads = cfg.model.roi_heads
    heads.batch_size_per_image = 16
    for predictor in heads.box_predictors:
        predictor.update(test_score_thresh=0.0, test_topk_per_image=5)
    if len(mask_stages) > 1:
        heads.mask_head.input_shape.update(channels=64, height=14, width=14)
        heads.mask_head.num_classes = "${...num_classes}"
        heads.mask_head = [heads.mask_head] * len(mask_stages)
    heads.mask_stages = list(mask_stages)
    LazyConfig.apply_overrides(cfg, list(overrides))
    torch.manual_seed(0)
    return instantiate(cfg.model)


def proposals_of(*boxes):
    return Instances((100, 100), proposal_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4)))


def target(*boxes, classes):
    instances = Instances((100, 100), gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4)))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


class TestLabels:
    # Boxes of height 10 that share their left edge with one of width 10: their IoUs are 0.55, 0.65 and 0.75.
    BOXES = ((0, 0, 5.5, 10), (0, 0, 6.5, 10), (0, 0, 7.5, 10))

    @pytest.mark.parametrize(("iou", "classes"), [(0.5, [2, 2, 2]), (0.6, [4, 2, 2]), (0.7, [4, 4, 2])])
    def test_a_stage_takes_fewer_for_positives(self, iou, classes):
        truth = target((50, 50, 60, 60), (0, 0, 10, 10), classes=[1, 2])
        matcher = Matcher([iou], [0, 1], allow_low_quality_matches=False)
        labelled = label_proposals(proposals_of(*self.BOXES), truth, matcher, NUM_CLASSES)
        assert labelled.gt_classes.tolist() == classes
        positive = labelled.gt_classes < NUM_CLASSES
        assert labelled.gt_indices[positive].tolist() == [1] * positive.sum()
        assert labelled.gt_boxes.tensor[positive].tolist() == [[0, 0, 10, 10]] * positive.sum()

    def test_the_model_has_the_thresholds_of_the_paper(self):
        heads = small_model().roi_heads
        truth = target((0, 0, 10, 10), classes=[2])
        for stage, positives in enumerate([3, 2, 1]):
            (labelled,) = heads._match_and_label_boxes([proposals_of(*self.BOXES)], stage, [truth])
            assert (labelled.gt_classes == 2).sum() == positives

    def test_without_ground_truth_all_is_background(self):
        matcher = Matcher([0.5], [0, 1], allow_low_quality_matches=False)
        labelled = label_proposals(proposals_of(*self.BOXES), target(classes=[]), matcher, NUM_CLASSES)
        assert labelled.gt_classes.tolist() == [NUM_CLASSES] * 3
        assert len(with_gt_masks(labelled[labelled.gt_classes < NUM_CLASSES], target(classes=[]))) == 0

    def test_masks_are_those_of_the_matched_instance(self):
        from detectron2.structures import PolygonMasks

        truth = target((50, 50, 60, 60), (0, 0, 10, 10), classes=[1, 2])
        truth.gt_masks = PolygonMasks([[[50.0, 50, 60, 50, 60, 60]], [[0.0, 0, 10, 0, 10, 10]]])
        matcher = Matcher([0.6], [0, 1], allow_low_quality_matches=False)
        labelled = label_proposals(proposals_of(*self.BOXES), truth, matcher, NUM_CLASSES)
        positives = with_gt_masks(labelled[labelled.gt_classes < NUM_CLASSES], truth)
        assert [masks[0].tolist() for masks in positives.gt_masks.polygons] == [[0, 0, 10, 0, 10, 10]] * 2


class TestDeltas:
    @pytest.mark.parametrize("stage", [0, 1, 2])
    def test_weights_of_the_stage(self, stage):
        """A box of 20 x 40 that is to move by 2 right, 4 down, and to grow by 1.5 in width."""
        proposal = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
        truth = torch.tensor([[7.0, 14.0, 37.0, 54.0]])
        expected = [10 * 2 / 20, 10 * 4 / 40, 5 * math.log(1.5), 0.0]
        predictor = small_model().roi_heads.box_predictor[stage]
        deltas = predictor.box2box_transform.get_deltas(proposal, truth)
        assert deltas[0].tolist() == pytest.approx([(stage + 1) * delta for delta in expected], abs=1e-5)
        # The L1 loss is the sum over the four, divided by the number of RoIs, of which one is background.
        losses = predictor.losses(
            (torch.zeros(2, NUM_CLASSES + 1), torch.zeros(2, 4)),
            [labelled_pair(proposal, truth)],
        )
        assert losses["loss_box_reg"].item() == pytest.approx((stage + 1) * sum(expected) / 2, abs=1e-5)
        assert losses["loss_cls"].item() == pytest.approx(math.log(NUM_CLASSES + 1), abs=1e-5)

    def test_refined_proposals_are_detached_clipped_and_not_empty(self):
        heads = small_model().roi_heads
        deltas = torch.zeros(3, 4, requires_grad=True) + torch.tensor(
            [[20.0 * 0.5, 0, 0, 0], [20.0 * 5, 0, 0, 0], [0, 0, 10 * math.log(2.0), 0]]
        )
        proposals = [proposals_of((10, 10, 30, 50), (60, 0, 90, 10), (40, 40, 60, 60))]
        (refined,) = heads.refined_proposals((torch.zeros(3, 5), deltas), proposals, stage=1)
        # Half a width to the right; five widths, out of the image; twice as wide.
        assert refined.proposal_boxes.tensor.flatten().tolist() == pytest.approx(
            [20, 10, 40, 50, 30, 40, 70, 60], abs=1e-4
        )
        assert not refined.proposal_boxes.tensor.requires_grad


def labelled_pair(proposal, truth):
    """A positive RoI of class 1 and a background one."""
    instances = Instances((100, 100), proposal_boxes=Boxes(proposal.repeat(2, 1)))
    instances.gt_boxes = Boxes(truth.repeat(2, 1))
    instances.gt_classes = torch.tensor([1, NUM_CLASSES])
    return instances


def test_scores_are_averaged_over_the_stages_and_boxes_are_the_last_ones():
    heads = small_model().eval().roi_heads
    probabilities = torch.tensor(
        [[0.6, 0.1, 0.1, 0.1, 0.1], [0.3, 0.4, 0.1, 0.1, 0.1], [0.9, 0.025, 0.025, 0.025, 0.025]]
    )
    shifts = torch.tensor([10.0 * 0.5, 20 * 0.5, 30 * 0.5])
    for stage in range(3):
        predictor = heads.box_predictor[stage]
        torch.nn.init.zeros_(predictor.cls_score.weight)
        torch.nn.init.zeros_(predictor.bbox_pred.weight)
        predictor.cls_score.bias.data = probabilities[stage].log()
        predictor.bbox_pred.bias.data = torch.tensor([shifts[stage], 0, 0, 0])
    features = {f"p{level}": torch.zeros(1, 64, 128 >> level, 128 >> level) for level in range(2, 6)}
    with torch.no_grad():
        (detections,) = heads._forward_box(features, [proposals_of((10, 10, 30, 30))])
    assert detections.pred_classes[0] == 0
    assert detections.scores[0].item() == pytest.approx((0.6 + 0.3 + 0.9) / 3, abs=1e-5)
    assert detections.scores[1].item() == pytest.approx((0.1 + 0.4 + 0.025) / 3, abs=1e-5)
    # Each stage moves the box by half its width, 10 pixels.
    assert detections.pred_boxes.tensor[0].tolist() == pytest.approx([40, 10, 60, 30], abs=1e-3)


def test_masks_are_averaged_over_the_heads():
    class Head:
        def __init__(self, value):
            self.value = value

        def __call__(self, x, instances):
            for image in instances:
                image.pred_masks = torch.full((len(image), 1, 2, 2), self.value)
            return instances

    detections = [Instances((10, 10), scores=torch.zeros(2)), Instances((10, 10), scores=torch.zeros(0))]
    averaged = average_masks([Head(0.2), Head(0.4), Head(0.9)], [torch.zeros(2, 1, 2, 2)] * 3, detections)
    assert averaged[0].pred_masks.flatten().tolist() == pytest.approx([0.5] * 8)
    assert averaged[1].pred_masks.shape == (0, 1, 2, 2)


class TestMaskStages:
    @pytest.mark.parametrize("stages", [(0,), (2,), (0, 1, 2), (1, 2)])
    def test_each_head_is_trained_on_its_stage(self, stages):
        model = small_model(mask_stages=stages)
        losses = model(synthetic_inputs([(64, 96), (64, 64)], num_classes=NUM_CLASSES))
        names = {name for name in losses if "mask" in name}
        assert names == ({"loss_mask"} if len(stages) == 1 else {f"loss_mask_stage{s}" for s in stages})
        assert model.roi_heads.mask_stages == stages
        with torch.no_grad():
            results = model.eval()(synthetic_inputs([(64, 96)], num_classes=NUM_CLASSES))
        assert results[0]["instances"].pred_masks.shape == (5, 64, 96)

    @pytest.mark.parametrize("stages", [(0, 1), (3,), (1, 1, 2)])
    def test_wrong_stages_are_named(self, stages):
        cfg = LazyConfig.load(PLAIN).model.roi_heads
        parts = {key: instantiate(value) for key, value in cfg.items() if key in ("box_heads",)}
        parts |= {"proposal_matchers": [None] * 3, "mask_head": [torch.nn.Identity()] * 3}
        if stages == (3,):
            parts["mask_head"] = torch.nn.Identity()
        with pytest.raises(ValueError, match=r"mask_stages must .* got \("):
            cascade_mask_rcnn.CascadeMaskRCNNROIHeads(mask_stages=stages, **parts)


@pytest.mark.parametrize("stages", [(0,), (0, 1, 2)])
@pytest.mark.parametrize(
    "without", ["instances in one image", "any instances", "masks", "masks in one image"]
)
def test_trains_without(without, stages):
    model = small_model(mask_stages=stages)
    inputs = synthetic_inputs([(64, 96), (64, 64)], num_classes=NUM_CLASSES, masks=without != "masks")
    if "instances" in without:
        for image in inputs[: 1 if "one" in without else 2]:
            image["instances"] = image["instances"][:0]
    if without == "masks in one image":
        image = inputs[0]["instances"]
        image.remove("gt_masks")
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if "any" in without or without == "masks":
        assert all(losses[name].item() == 0 for name in losses if "mask" in name)
    else:
        assert any(losses[name].item() > 0 for name in losses if "mask" in name)


def test_under_autocast_boxes_and_scores_are_float32():
    model = small_model()
    seen = []
    inner = model.roi_heads._run_stage
    model.roi_heads._run_stage = lambda *args: seen.append(inner(*args)) or seen[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16), EventStorage():
        losses = model(synthetic_inputs([(64, 64)], num_classes=NUM_CLASSES))
    assert len(seen) == 3
    assert {x.dtype for predictions in seen for x in predictions} == {torch.float32}
    assert {loss.dtype for name, loss in losses.items() if "stage" in name} == {torch.float32}


def test_configs_state_the_stages_of_the_paper():
    cfg = LazyConfig.load(f"{CONFIGS}/COCO-InstanceSegmentation/cascade_mask_rcnn_R_50_FPN_1x.py")
    heads = cfg.model.roi_heads
    assert [list(matcher.thresholds) for matcher in heads.proposal_matchers] == [[0.5], [0.6], [0.7]]
    weights = [list(predictor.box2box_transform.weights) for predictor in heads.box_predictors]
    assert weights == [[10, 10, 5, 5], [20, 20, 10, 10], [30, 30, 15, 15]]
    assert OmegaConf.select(heads, "box_heads")[2].input_shape.height == 7


def test_the_score_threshold_of_a_predictor_reaches_every_stage(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": instantiate(LazyConfig.load(PLAIN).model).state_dict()}, path)
    predictor = build_predictor(PLAIN, str(path), threshold=0.3, device="cpu")
    stages = predictor.model.roi_heads.box_predictor
    assert [stage.test_score_thresh for stage in stages] == [0.3] * 3
