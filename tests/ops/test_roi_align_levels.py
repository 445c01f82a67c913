"""The level that pools a box: Detectron2's choice, bit for bit, also next to the boundaries."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.poolers import assign_boxes_to_levels
from detectron2.structures import Boxes

from mrcnn_plugin.ops import multi_level_roi_align
from mrcnn_plugin.ops.reference.roi_align import assign_levels


def levels_of_the_op(boxes: torch.Tensor, scales: list[float], size: float, level: int) -> torch.Tensor:
    """Each map holds its own offset, so the pooled value tells which one was read."""
    features = [torch.full((1, 1, 1, 1), float(offset)) for offset in range(len(scales))]
    # One sample, at the centre of the box, which is the only pixel.
    rois = torch.nn.functional.pad(boxes, (1, 0))
    pooled = multi_level_roi_align(
        features, rois, scales, 1, 1, canonical_box_size=size, canonical_level=level, aligned=False
    )
    return pooled.flatten().round().long()


def boxes_next_to_boundaries(canonical: float) -> torch.Tensor:
    """Squares around the origin, within 200 floats of a size at which the level changes."""
    sides = []
    for power in range(-3, 4):
        side = torch.full((401,), canonical * 2.0**power)
        sides.append(
            (side.view(torch.int32) + torch.arange(-200, 201, dtype=torch.int32)).view(torch.float32)
        )
    side = torch.cat(sides)
    return torch.stack([-side / 2, -side / 2, side / 2, side / 2], dim=1)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("canonical", [(224, 4), (96, 3), (56, 2)])
@pytest.mark.parametrize("levels", [(2, 5), (3, 7), (2, 3)])
def test_levels_equal_detectron2(canonical, levels):
    scales = [2.0**-level for level in range(levels[0], levels[1] + 1)]
    random = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) * 1000
    odd = torch.tensor([[0.0, 0, 0, 0], [-1e-3, 0, 1e-3, 0], [-2e38, -1, 2e38, 1]])
    boxes = torch.cat(
        [torch.cat([-random / 2, random / 2], dim=1), boxes_next_to_boundaries(canonical[0]), odd]
    )
    expected = assign_boxes_to_levels([Boxes(boxes)], *levels, *canonical)
    assert expected.unique().numel() == len(scales)
    assert torch.equal(assign_levels(boxes, scales, *canonical), expected)
    assert torch.equal(levels_of_the_op(boxes, scales, *canonical), expected)


@pytest.mark.usefixtures("kernels")
def test_boxes_of_negative_area_go_to_the_finest_level():
    boxes = torch.tensor([[300.0, 0, -300, 600], [0.0, 500, 500, 0]])
    scales = [1 / 4, 1 / 8, 1 / 16]
    assert assign_levels(boxes, scales, 224, 4).tolist() == [0, 0]
    features = [torch.full((1, 1, 200, 200), 1.0 / scale) for scale in scales]
    rois = torch.nn.functional.pad(boxes + 400, (1, 0))
    pooled = multi_level_roi_align(features, rois, scales, 1, 1)
    assert pooled.flatten().tolist() == [4.0, 4.0]
