import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks

from mrcnn_plugin.modeling import mask_targets as module
from mrcnn_plugin.modeling.mask_targets import mask_targets


def triangles(n: int) -> PolygonMasks:
    rng = np.random.default_rng(0)
    return PolygonMasks([[rng.uniform(5, 95, 6) for _ in range(1 + i % 2)] for i in range(n)])


def boxes(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(n, 2, generator=generator) * 50
    return torch.cat([corner, corner + torch.rand(n, 2, generator=generator) * 60 + 1], dim=1)


def test_polygons():
    masks, rois = triangles(40), boxes(40)
    targets = mask_targets(masks, Boxes(rois), 28)
    assert targets.dtype == torch.bool
    assert 0.05 < targets.float().mean() < 0.95
    assert torch.equal(targets, masks.crop_and_resize(rois, 28))


@pytest.mark.parametrize("max_floats", [1, 10**9])
def test_bitmasks(max_floats, monkeypatch):
    monkeypatch.setattr(module, "_MAX_FLOATS", max_floats)
    masks = BitMasks.from_polygon_masks(triangles(12), 90, 110)
    targets = mask_targets(masks, boxes(12), 14)
    assert targets.dtype == torch.bool
    assert 0.05 < targets.float().mean() < 0.95
    assert torch.equal(targets, masks.crop_and_resize(boxes(12), 14))


def test_hand_computed():
    """A box over the left half of a square, half of which is mask: the two left cell columns are inside."""
    bitmask = torch.zeros(1, 8, 8, dtype=torch.bool)
    bitmask[0, :, :4] = True
    box = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    expected = torch.tensor([[True, True, False, False]] * 4)[None]
    assert torch.equal(mask_targets(BitMasks(bitmask), box, 4), expected)
    square = PolygonMasks([[[0.0, 0.0, 4.0, 0.0, 4.0, 8.0, 0.0, 8.0]]])
    assert torch.equal(mask_targets(square, box, 4), expected)


def test_empty():
    empty = torch.zeros(0, 4)
    assert mask_targets(PolygonMasks([]), empty, 28).shape == (0, 28, 28)
    assert mask_targets(BitMasks(torch.zeros(0, 5, 5)), empty, 28).shape == (0, 28, 28)
    assert not mask_targets(PolygonMasks([[]]), boxes(1), 28).any()


def test_subclass_keeps_its_own_targets():
    class Inverted(BitMasks):
        def crop_and_resize(self, boxes, mask_size):
            return ~super().crop_and_resize(boxes, mask_size)

    masks = BitMasks.from_polygon_masks(triangles(3), 90, 110).tensor
    assert torch.equal(
        mask_targets(Inverted(masks), boxes(3), 14), ~mask_targets(BitMasks(masks), boxes(3), 14)
    )


def test_errors():
    with pytest.raises(TypeError, match="PolygonMasks or BitMasks, got Tensor"):
        mask_targets(torch.zeros(1, 5, 5), boxes(1), 28)
    with pytest.raises(ValueError, match="one mask per box, got 2 for 3 boxes"):
        mask_targets(triangles(2), boxes(3), 28)
