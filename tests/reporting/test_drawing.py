"""Drawing: where colour falls, and that it stays within what is to be drawn."""

from __future__ import annotations

import numpy as np
import pytest
from detectron2.data import Metadata
from pycocotools import mask as mask_util

from mrcnn_plugin.reporting.drawing import draw_instances

WHITE = np.full((500, 600, 3), 255, np.uint8)
RED = (1.0, 0.0, 0.0)
BOX = np.array([[100.0, 200.0, 300.0, 400.0]])


def mask_of(x0, y0, x1, y1) -> np.ndarray:
    mask = np.zeros(WHITE.shape[:2], bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_hand_computed_colours():
    mask = mask_of(120, 220, 280, 380)
    picture = draw_instances(WHITE, Metadata(), [RED], ["a"], boxes=BOX, masks=[mask])
    assert (WHITE == 255).all(), "the image itself is not drawn into"
    # 40% of the class's colour in the mask, all of it on its outline, half of it on the box.
    assert picture[300, 200].tolist() == [255, 153, 153]
    assert picture[220, 200].tolist() == [255, 0, 0]
    assert picture[201, 200].tolist() == picture[300, 100].tolist() == [255, 128, 128]
    assert picture[300, 110].tolist() == [255, 255, 255]
    # The label's dark plate, above the box.
    assert picture[195, 101].max() < 100
    changed = (picture != 255).any(axis=2)
    ys, xs = np.nonzero(changed)
    assert (xs.min(), xs.max(), ys.max()) == (100, 299, 399)


def test_every_form_of_a_mask_is_the_same_picture():
    mask = mask_of(120, 220, 280, 380)
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    polygons = [[120, 220, 280, 220, 280, 380, 120, 380]]
    pictures = [
        draw_instances(WHITE, Metadata(), [RED], ["a"], boxes=BOX, masks=[form])
        for form in (mask, rle, polygons)
    ]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] == pictures[2]).all()


def test_small_images_are_enlarged():
    small = np.full((40, 80, 3), 255, np.uint8)
    mask = np.zeros((40, 80), bool)
    mask[10:30, 20:60] = True
    picture = draw_instances(
        small, Metadata(), [RED], ["a"], boxes=np.array([[18.0, 8.0, 62.0, 32.0]]), masks=[mask]
    )
    assert picture.shape == (400, 800, 3)
    tinted = (picture == (255, 153, 153)).all(axis=2)
    # The label above the box has the same colour.
    tinted[:85] = False
    ys, xs = np.nonzero(tinted)
    # The mask's edges, ten times as far, and the outline of a pixel.
    assert (
        np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - (200, 100, 600, 300)).max() <= 2
    )


@pytest.mark.parametrize(
    "box",
    [(-20, -20, 10, 10), (590, 490, 700, 600), (0, 0, 600, 500), (300, 300, 300, 300), (700, 700, 800, 800)],
)
def test_boxes_at_and_beyond_the_edges(box):
    picture = draw_instances(WHITE, Metadata(), [RED], ["a long label" * 20], boxes=np.array([box], float))
    assert picture.shape == WHITE.shape


def test_empty_mask_and_masks_at_the_edges():
    masks = [mask_of(0, 0, 0, 0), mask_of(0, 0, 600, 500), mask_of(599, 499, 600, 500)]
    boxes = np.array([[0, 0, 1, 1], [0, 0, 600, 500], [599, 499, 600, 500]], float)
    picture = draw_instances(WHITE, Metadata(), [RED] * 3, ["", "b", "c"], boxes=boxes, masks=masks)
    assert picture[250, 300].tolist() == [255, 153, 153]
    assert picture[499, 599].tolist() == [255, 0, 0]


def test_skeleton():
    people = Metadata().set(
        keypoint_names=("a", "b", "c"),
        keypoint_connection_rules=[("a", "b", (0, 0, 255)), ("b", "c", (0, 255, 0))],
    )
    points = np.array([[[150.5, 250.5, 1.0], [250.5, 250.5, 1.0], [250.5, 350.5, 0.01]]])
    picture = draw_instances(WHITE, people, [RED], ["a"], boxes=BOX, keypoints=points)
    assert picture[250, 200].tolist() == [0, 0, 255]
    assert picture[250, 150].tolist() == picture[250, 250].tolist() == [255, 0, 0]
    assert picture[300, 250].tolist() == [255, 255, 255], "a point that is not sure, and its connections"


def test_labels_are_as_large_as_the_view_asks():
    large = np.full((2000, 2000, 3), 255, np.uint8)
    dark = [
        (draw_instances(large, Metadata(), [RED], ["a"], boxes=BOX, view=view) < 100).all(axis=2).sum()
        for view in (None, 512)
    ]
    assert dark[0] > 4 * dark[1] > 0


def test_labels_do_not_hide_each_other_or_their_neighbours():
    def drawn(boxes, labels) -> np.ndarray:
        return draw_instances(WHITE, Metadata(), [RED] * len(labels), labels, boxes=np.array(boxes, float))

    def dark(picture: np.ndarray) -> np.ndarray:
        return picture.max(axis=2) < 100

    alone = drawn([[100, 200, 300, 400]], ["a class"])
    # The smaller one's label would start within the larger one's, whose own is drawn first.
    overlapping = drawn([[100, 200, 300, 400], [110, 203, 290, 380]], ["a class", "a class"])
    assert dark(overlapping).sum() == dark(alone).sum() > 0
    # A label above the larger one would cover the middle of the small one, and the small one's has room.
    covered = drawn([[100, 200, 300, 400], [110, 185, 130, 200]], ["a class", "a class"])
    assert not dark(covered)[193, 103]
    assert dark(covered)[180, 112]
    apart = drawn([[100, 200, 300, 400], [400, 200, 500, 300]], ["a class", "a class"])
    assert dark(apart).sum() == 2 * dark(alone).sum()
