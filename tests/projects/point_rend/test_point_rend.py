"""Points, labels, losses and subdivision of PointRend, by hand; images without instances; results."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.projects.point_rend.point_features import get_uncertain_point_coords_with_randomness
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from helpers.training import synthetic_inputs, train_step
from pycocotools import mask as coco_mask

from mrcnn_plugin.projects.point_rend import PointMaskHead, point_labels
from mrcnn_plugin.projects.point_rend.mask_head import of_class, point_loss, uncertainty

SHAPES = {"p2": ShapeSpec(channels=4, stride=4)}
SMALL = {"conv_dim": 4, "fc_dim": 8, "point_fc_dim": 8}


@pytest.fixture(scope="module")
def model(small_model):
    return small_model("point_rend/configs/Shapes/point_rend_R_18_FPN.py")


def with_bitmasks(inputs):
    for image in inputs:
        instances = image["instances"]
        if instances.has("gt_masks"):
            instances.gt_masks = BitMasks.from_polygon_masks(instances.gt_masks, *instances.image_size)
    return inputs


class TestLabels:
    def test_by_hand(self):
        masks = torch.zeros(1, 4, 6)
        masks[0, 1, 2] = 1
        points = {
            (2.5, 1.5): 1.0,  # the pixel's centre
            (3.0, 1.5): 0.5,  # half way to the next centre
            (3.0, 2.0): 0.25,  # its corner
            (2.25, 1.25): 0.75**2,
            (3.5, 1.5): 0.0,
            (9.0, 1.5): 0.0,
            (-4.0, -4.0): 0.0,
        }
        labels = point_labels(BitMasks(masks), torch.tensor([list(points)]))
        assert labels[0].tolist() == pytest.approx(list(points.values()))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_equal_grid_sample(self, dtype):
        torch.manual_seed(0)
        masks = torch.rand(3, 20, 30) > 0.5
        points = torch.rand(3, 200, 2, dtype=dtype) * torch.tensor([34.0, 24.0]) - 2
        grid = (points / torch.tensor([30.0, 20.0]) * 2 - 1)[:, None].float()
        expected = F.grid_sample(masks[:, None].float(), grid, align_corners=False)[:, 0, 0]
        torch.testing.assert_close(point_labels(BitMasks(masks), points), expected, atol=1e-4, rtol=0)

    def test_of_nothing(self):
        assert point_labels(BitMasks(torch.zeros(0, 4, 6)), torch.zeros(0, 7, 2)).shape == (0, 7)

    def test_errors(self):
        with pytest.raises(ValueError, match=r"must be BitMasks .* got PolygonMasks: .*\"bitmask\""):
            point_labels(PolygonMasks([]), torch.zeros(0, 7, 2))
        with pytest.raises(ValueError, match="one row per mask, 2, got 3"):
            point_labels(BitMasks(torch.zeros(2, 4, 6)), torch.zeros(3, 7, 2))


def test_uncertainty_is_the_distance_to_one_half():
    logits = torch.tensor([[[3.0, -0.5, 0.0, -2.0]]])
    assert uncertainty(logits).tolist() == [[[-3.0, -0.5, 0.0, -2.0]]]
    # Logits of +-0.5 are as far from a probability of 0.5.
    assert (logits.sigmoid() - 0.5).abs().argsort().flatten().tolist() == [2, 1, 3, 0]
    assert uncertainty(logits).argsort(descending=True).flatten().tolist() == [2, 1, 3, 0]


def test_class_choice():
    logits = torch.arange(24.0).view(3, 2, 2, 2)
    assert of_class(logits, torch.tensor([1, 0, 1]))[:, 0, 0, 0].tolist() == [4, 8, 20]


def test_point_loss_by_hand():
    logits = torch.tensor([[[1.5, 1.5]], [[1.5, -2.0]]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    softplus = math.log1p(math.exp(1.5))
    expected = (softplus - 1.5 + softplus + softplus - 0.75 + math.log1p(math.exp(-2.0))) / 4
    assert point_loss(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    empty = torch.zeros(0, 1, 5, requires_grad=True)
    point_loss(empty, torch.zeros(0, 5)).backward()
    assert empty.grad.shape == (0, 1, 5)


def training_points(head, coarse, count=2):
    """The points that the head draws, for RoIs of a box of 20 x 10 pixels at (8, 4)."""
    boxes = Boxes(torch.tensor([[8.0, 4.0, 28.0, 14.0]]).repeat(count, 1))
    image = Instances((40, 40), proposal_boxes=boxes)
    image.gt_masks = BitMasks(torch.zeros(count, 40, 40))
    image.gt_masks.tensor[:, :, :18] = 1
    points, labels = head._train_points(coarse, [boxes], torch.zeros(count, dtype=torch.long), [image])
    return points, labels


def test_three_quarters_of_the_training_points_are_uncertain():
    """A vertical boundary in the middle: the importance-sampled points lie along it, the others anywhere."""
    torch.manual_seed(0)
    head = PointMaskHead(SHAPES, num_classes=3, **SMALL)
    assert (head.mask_point_train_num_points, head.mask_point_oversample_ratio) == (196, 3)
    coarse = torch.linspace(-3, 3, 7).expand(2, 3, 7, 7).contiguous()
    points, labels = training_points(head, coarse)
    assert points.shape == (2, 196, 2)
    assert points.min() >= 0
    assert points.max() <= 1
    distance = (points[:, :, 0] - 0.5).abs()
    # 147 of 588 uniform points: a quarter of the width, an eighth on each side.
    # (In the outermost half cell the coarse mask fades to 0, which counts as uncertain.)
    inner = (points[:, :147, 1] - 0.5).abs() < 0.5 - 1 / 14
    assert inner.float().mean() > 0.7
    assert (distance[:, :147][inner] < 0.125 + 0.05).all()
    assert (distance[:, 147:] > 0.2).float().mean() == pytest.approx(0.6, abs=0.15)
    # The image's columns up to 18 are foreground, which is the middle of the box.
    clear = distance > 0.5 / 20
    torch.testing.assert_close(labels[clear], (points[:, :, 0] < 0.5)[clear].float())


def test_the_uncertain_points_are_the_least_certain_of_those_drawn():
    torch.manual_seed(5)
    coarse = torch.randn(1, 1, 7, 7)
    drawn = torch.rand(1, 588, 2, generator=torch.Generator().manual_seed(9))
    torch.manual_seed(9)
    points = get_uncertain_point_coords_with_randomness(coarse, uncertainty, 196, 3, 0.75)
    values = F.grid_sample(coarse, drawn[:, None] * 2 - 1, align_corners=False)[0, 0, 0].abs()
    expected = drawn[0, values.argsort()[:147]]
    torch.testing.assert_close(points[0, :147], expected)


class Recorder(torch.nn.Module):
    """A point head that writes down where it was asked, and answers with 10."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def forward(self, fine, coarse, classes):
        self.counts.append(fine.shape[-1])
        return fine.new_full((len(fine), 1, fine.shape[-1]), 10.0)


def detections(counts):
    box = torch.tensor([[4.0, 4.0, 36.0, 28.0]])
    return [
        Instances((40, 40), pred_boxes=Boxes(box.repeat(n, 1)), pred_classes=torch.arange(n) % 3)
        for n in counts
    ]


def test_subdivision_has_the_steps_of_the_paper():
    """784 points a step: 7, 14 and 28 are computed whole, so it starts at 28, and ends at 224."""
    head = PointMaskHead(SHAPES, num_classes=3, **SMALL).eval()
    head.point_head = Recorder()
    results = head({"p2": torch.randn(1, 4, 10, 10)}, detections([2]))
    assert head.point_head.counts == [784] * 4
    assert results[0].pred_masks.shape == (2, 1, 224, 224)


def test_subdivision_refines_the_least_certain_cells():
    """From 4 x 4, one step to 8 x 8 of which 16 cells are predicted anew: those beside the boundary."""
    head = PointMaskHead(
        SHAPES, num_classes=3, coarse_resolution=4, subdivision_steps=1, subdivision_num_points=16, **SMALL
    ).eval()
    rows = torch.tensor([-8.0, -2.0, 2.0, 8.0])
    answers = [rows[:, None].expand(4, 4).reshape(1, 1, 16), torch.full((1, 1, 16), 100.0)]
    seen = []

    class PointHead(torch.nn.Module):
        def forward(self, fine, coarse, classes):
            return answers.pop(0)

    head.point_head = PointHead()
    original = head._point_pooler
    head._point_pooler = lambda features, boxes, points: (
        seen.append(points) or original(features, boxes, points)
    )
    masks = head({"p2": torch.randn(1, 4, 10, 10)}, detections([1]))[0].pred_masks[0, 0]
    # Interpolated, the rows are -8, -6.5, -3.5, -1, 1, 3.5, 6.5, 8: the fourth and fifth are refined.
    interpolated = torch.tensor([-8.0, -6.5, -3.5, 0.0, 0.0, 3.5, 6.5, 8.0])
    interpolated[3:5] = 100.0
    torch.testing.assert_close(masks, interpolated.sigmoid()[:, None].expand(8, 8))
    # Centres of the cells, in [0, 1] of the box.
    assert sorted(set(seen[1][0, :, 1].tolist())) == pytest.approx([3.5 / 8, 4.5 / 8])
    assert sorted(set(seen[1][0, :, 0].tolist())) == pytest.approx([(i + 0.5) / 8 for i in range(8)])
    assert seen[0][0, 0].tolist() == pytest.approx([0.125, 0.125])


def test_points_read_the_features_of_their_place():
    """p2 holds its own coordinates in image pixels: the fine features are the points' places."""
    head = PointMaskHead({"p2": ShapeSpec(channels=2, stride=4)}, num_classes=3, **SMALL)
    x = torch.arange(20.0) * 4 + 2
    features = {"p2": torch.stack([x.expand(20, 20), x[:, None].expand(20, 20)])[None]}
    points = torch.tensor([[[0.0, 0.0], [0.5, 0.25], [1.0, 1.0]]])
    fine = head._point_pooler(features, [Boxes(torch.tensor([[10.0, 20.0, 50.0, 60.0]]))], points)
    assert fine[0].T.tolist() == [pytest.approx(p, abs=1e-4) for p in ([10, 20], [30, 30], [50, 60])]


@pytest.mark.parametrize("counts", [[0], [0, 0], [2, 0], [0, 1]])
def test_images_without_detections(counts):
    head = PointMaskHead(SHAPES, num_classes=3, **SMALL).eval()
    with torch.no_grad():
        results = head({"p2": torch.randn(len(counts), 4, 10, 10)}, detections(counts))
    assert [image.pred_masks.shape for image in results] == [(n, 1, 224, 224) for n in counts]


def test_images_that_lack_masks_train(model, lacking_masks):
    inputs, learns = lacking_masks
    losses = train_step(model, with_bitmasks(inputs)).losses
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name in ("loss_mask", "loss_mask_point"):
        assert (losses[name] > 0) == learns
    assert all(p.grad is not None for p in model.roi_heads.mask_head.parameters())


def test_under_bfloat16_the_losses_are_float32(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_step(model, with_bitmasks(synthetic_inputs([(64, 64)], num_classes=4))).losses
    for name in ("loss_mask", "loss_mask_point"):
        assert losses[name].dtype == torch.float32
        assert torch.isfinite(losses[name])


def test_results_in_both_forms(model):
    inputs = synthetic_inputs([(64, 64), (96, 64)], num_classes=4)
    inputs[1]["height"] = 50
    model.eval()
    results = {}
    with torch.no_grad():
        for model.mask_format in ("rle", "raw", "bitmask"):
            results[model.mask_format] = [output["instances"] for output in model(inputs)]
    assert len(results["bitmask"]) == len(inputs)
    for bitmask, rle, raw in zip(results["bitmask"], results["rle"], results["raw"], strict=True):
        assert len(bitmask) == len(rle) > 0
        assert raw.pred_masks.shape == (len(raw), 224, 224)
        assert bitmask.pred_masks.shape == (len(bitmask), *bitmask.image_size)
        decoded = torch.stack([torch.from_numpy(coco_mask.decode(code)) for code in rle.pred_masks_rle])
        assert torch.equal(decoded.bool(), bitmask.pred_masks)
