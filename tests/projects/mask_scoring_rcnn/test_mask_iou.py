"""Area ratio, IoU targets and loss of Mask Scoring R-CNN, by hand."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks
from hypothesis import given
from pycocotools import mask as coco_mask

from mrcnn_plugin.modeling.mask_targets import mask_targets
from mrcnn_plugin.projects.mask_scoring_rcnn import area_ratio, mask_iou_loss, mask_iou_targets

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
# Three quarters of the square: all but its lower right one.
ELL = [10, 10, 30, 10, 30, 20, 20, 20, 20, 30, 10, 30]
BOX = [10.0, 10.0, 30.0, 30.0]


def ratio_of(polygon, roi, bitmask=False):
    masks = PolygonMasks([[np.array(polygon, dtype=np.float64)]])
    if bitmask:
        pixels = torch.zeros(1, 64, 64)
        pixels[0, 10:30, 10:30] = 1
        if polygon is ELL:
            pixels[0, 20:, 20:] = 0
        masks = BitMasks(pixels)
    return area_ratio(masks, Boxes([BOX]), Boxes([roi])).item()


@pytest.mark.parametrize("bitmask", [False, True])
@pytest.mark.parametrize(
    ("polygon", "roi", "expected"),
    [
        (SQUARE, [10, 10, 30, 30], 1),
        (SQUARE, [0, 5, 60, 40], 1),
        (SQUARE, [0, 0, 20, 60], 1 / 2),
        (SQUARE, [20, 20, 60, 60], 1 / 4),
        (SQUARE, [15, 15, 25, 25], 1 / 4),
        (SQUARE, [10, 10, 10.1, 30], 0.1 / 20),
        (SQUARE, [40, 40, 60, 60], 0),
        (ELL, [10, 10, 20, 30], 2 / 3),
        (ELL, [20, 10, 60, 30], 1 / 3),
        (ELL, [20, 20, 60, 60], 0),
    ],
)
def test_area_ratio(polygon, roi, expected, bitmask):
    # A diagonal step, or the corner of a bitmask, costs a cell of 56 x 56 or so.
    tolerance = 0.02 if polygon is ELL else 2e-3 if bitmask else 1e-6
    assert ratio_of(polygon, roi, bitmask) == pytest.approx(expected, abs=tolerance)


def test_area_ratio_is_exactly_one_within_the_roi():
    """Else a perfect mask would not reach an IoU of 1."""
    torch.manual_seed(0)
    corner, size = torch.rand(200, 2) * 400, torch.rand(200, 2) * 300 + 3
    boxes = torch.cat([corner, corner + size], dim=1)
    polygons = [[np.array([x1, y1, x2, y1, (x1 + x2) / 2, y2])] for x1, y1, x2, y2 in boxes.tolist()]
    assert (area_ratio(PolygonMasks(polygons), Boxes(boxes), Boxes(boxes)) == 1).all()


def test_area_ratio_of_nothing():
    assert ratio_of([12, 12, 12, 12, 12, 12], [0, 0, 5, 5]) in (0, 1)
    empty = area_ratio(BitMasks(torch.zeros(1, 64, 64)), Boxes([BOX]), Boxes([BOX]))
    assert empty.tolist() == [1]
    none = area_ratio(PolygonMasks([]), Boxes(torch.zeros(0, 4)), Boxes(torch.zeros(0, 4)))
    assert none.shape == (0,)


def grid(*rows):
    return torch.tensor([[c == "#" for c in row] for row in rows])


def test_targets_by_hand():
    predicted = torch.stack([grid("##..", "##..", "##..", "##..")] * 3 + [grid(*["...."] * 4)])
    truth = torch.stack([grid("####", "####", "....", "....")] * 2 + [grid(*["...."] * 4)] * 2)
    ratio = torch.tensor([1.0, 0.5, 1.0, 1.0])
    # 4 / (8 + 8 - 4); the object twice as large: 4 / (8 + 16 - 4); no object; neither.
    assert mask_iou_targets(predicted, truth, ratio).tolist() == pytest.approx([1 / 3, 1 / 5, 0, 0])


def test_target_of_a_partly_covered_object():
    """The RoI is the object's box moved by half of it, and predicted foreground throughout."""
    masks, objects = PolygonMasks([[np.array(SQUARE, dtype=np.float64)]]), Boxes([BOX])
    roi = Boxes([[20.0, 10.0, 40.0, 30.0]])
    truth = mask_targets(masks, roi, 28)
    assert truth.sum() == 28 * 14
    predicted = torch.ones(1, 28, 28, dtype=torch.bool)
    # 200 of 400 + 400 - 200 pixels; within the RoI alone it would be 200 of 400.
    target = mask_iou_targets(predicted, truth, area_ratio(masks, objects, roi))
    assert target.item() == pytest.approx(1 / 3, abs=1e-5)


@given(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(24, 60), st.integers(24, 60)),
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(24, 60), st.integers(24, 60)),
    st.tuples(st.integers(0, 27), st.integers(1, 28)),
)
def test_targets_equal_the_iou_in_pixels(object_box, roi, rows):
    """Rectangles, counted by pycocotools at the image's resolution; predicted: some rows of the RoI."""
    truth_masks = torch.zeros(1, 64, 64)
    truth_masks[0, object_box[1] : object_box[3], object_box[0] : object_box[2]] = 1
    boxes, rois = (Boxes(torch.tensor([b], dtype=torch.float32)) for b in (object_box, roi))
    truth = mask_targets(BitMasks(truth_masks), rois, 28)
    predicted = torch.zeros(1, 28, 28, dtype=torch.bool)
    predicted[0, rows[0] : rows[0] + rows[1]] = True
    got = mask_iou_targets(predicted, truth, area_ratio(BitMasks(truth_masks), boxes, rois)).item()

    cell = (roi[3] - roi[1]) / 28
    top, bottom = roi[1] + rows[0] * cell, roi[1] + min(28, rows[0] + rows[1]) * cell
    xywh = np.array([[roi[0], top, roi[2] - roi[0], bottom - top]], dtype=np.float64)
    x, y, x2, y2 = object_box
    expected = coco_mask.iou(xywh, np.array([[x, y, x2 - x, y2 - y]], dtype=np.float64), [0]).item()
    # A cell is in or out as a whole: at most half a cell at each side of the object.
    assert got == pytest.approx(expected, abs=0.06)


def test_loss_by_hand():
    predicted = torch.tensor([0.5, 0.9, 0.3], requires_grad=True)
    loss = mask_iou_loss(predicted, torch.tensor([1.0, 0.5, 0.0]))
    # The third mask misses its object: left out. Half of (0.5^2 + 0.4^2) / 2.
    assert loss.item() == pytest.approx(0.1025)
    loss.backward()
    assert predicted.grad.tolist() == pytest.approx([-0.25, 0.2, 0.0])


@pytest.mark.parametrize("targets", [torch.zeros(0), torch.zeros(3)])
def test_loss_of_nothing_is_zero_and_connected(targets):
    predicted = torch.rand(len(targets), requires_grad=True)
    loss = mask_iou_loss(predicted, targets)
    loss.backward()
    assert loss.item() == 0
    assert not predicted.grad.any()
