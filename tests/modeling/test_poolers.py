import pytest
import torch
from detectron2.modeling import poolers
from detectron2.structures import Boxes

from mrcnn_plugin.modeling import ROIPooler

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def pyramid(num_images, channels=3, size=128):
    torch.manual_seed(0)
    return [torch.randn(num_images, channels, int(size * s), int(size * s)) for s in SCALES]


def random_boxes(*counts):
    torch.manual_seed(1)
    lists = []
    for count in counts:
        corner = torch.rand(count, 2) * 60
        lists.append(Boxes(torch.cat([corner, corner + torch.rand(count, 2) * 500 + 1], dim=1)))
    return lists


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIAlign", "ROIPool"])
@pytest.mark.parametrize("counts", [(5, 0, 7), (0, 0, 0)])
def test_equals_detectron2(pooler_type, sampling_ratio, counts):
    features, boxes = pyramid(3), random_boxes(*counts)
    arguments = (7, SCALES, sampling_ratio, pooler_type)
    expected = poolers.ROIPooler(*arguments)(features, boxes)
    actual = ROIPooler(*arguments)(features, boxes)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_equals_detectron2_on_one_level():
    features, boxes = pyramid(2)[2:3], random_boxes(4, 3)
    arguments = ((7, 5), SCALES[2:3], 0, "ROIAlignV2", 112, 3)
    expected = poolers.ROIPooler(*arguments)(features, boxes)
    torch.testing.assert_close(ROIPooler(*arguments)(features, boxes), expected, atol=1e-5, rtol=1e-5)


def test_canonical_size_moves_the_level():
    """A 64-pixel box goes to level 3 of the canonical 112 at level 4, and to level 2 of 224."""
    features = [torch.full_like(f, level) for level, f in enumerate(pyramid(1), 2)]
    box = [Boxes(torch.tensor([[10.0, 10.0, 74.0, 74.0]]))]
    assert ROIPooler(7, SCALES, 0, "ROIAlignV2")(features, box).round().unique().tolist() == [2]
    assert ROIPooler(7, SCALES, 0, "ROIAlignV2", 112)(features, box).round().unique().tolist() == [3]


def test_max_takes_the_largest_sample():
    """One sample a bin is its own maximum; with more, the maximum is above the mean."""
    features, boxes = pyramid(1), random_boxes(6)
    one = [ROIPooler(7, SCALES, 1, kind)(features, boxes) for kind in ("ROIAlignV2", "ROIAlignV2Max")]
    torch.testing.assert_close(*one)
    mean = ROIPooler(7, SCALES, 2, "ROIAlignV2")(features, boxes)
    largest = ROIPooler(7, SCALES, 2, "ROIAlignV2Max")(features, boxes)
    assert (largest >= mean - 1e-6).all()
    assert (largest > mean + 1e-2).any()


def test_no_image():
    features = [f[:0] for f in pyramid(1)]
    assert ROIPooler(7, SCALES, 0, "ROIAlignV2")(features, []).shape == (0, 3, 7, 7)


def test_wrong_arguments_are_named():
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    with pytest.raises(ValueError, match="x must hold 4 feature maps, one per scale, got 3"):
        pooler(pyramid(1)[:3], random_boxes(1))
    with pytest.raises(ValueError, match="box_lists must hold 1 Boxes, one per image, got 2"):
        pooler(pyramid(1), random_boxes(1, 1))


def ramp(size):
    """(1, 1, size, size): the value of a pixel is 10 times its row plus its column."""
    row, column = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    return (10 * row + column)[None, None]


def test_types_of_table_2c_by_hand():
    """Stride 16, box (23, 23)-(71, 71): 1.4375 to 4.4375 feature pixels, quantised to the pixels 1 to 4.

    A 2x2 output. RoIPool takes the last pixel of each bin of two: 2 and 4. RoIWarp with two samples a bin and
    axis puts them on the pixels' centres: their mean 1.5 and 3.5, their largest 2 and 4. RoIAlign samples the
    box itself, whose bins are 1.5 pixels wide and begin half a pixel less than 1.4375 from the first centre:
    means at 0.9375 + 0.75 and 1.5 further; the larger samples are 0.375 beyond the mean.
    """
    box = [Boxes(torch.tensor([[23.0, 23.0, 71.0, 71.0]]))]
    expected = {
        "ROIPool": (2.0, 4.0),
        "ROIWarp": (1.5, 3.5),
        "ROIWarpMax": (2.0, 4.0),
        "ROIAlignV2": (1.6875, 3.1875),
        "ROIAlignV2Max": (2.0625, 3.5625),
    }
    for kind, (first, second) in expected.items():
        pooled = ROIPooler(2, (1 / 16,), 2, kind)([ramp(8)], box)
        values = torch.tensor([[11 * first, 10 * first + second], [10 * second + first, 11 * second]])
        torch.testing.assert_close(pooled[0, 0], values, msg=lambda text, kind=kind: f"{kind}: {text}")


@pytest.mark.parametrize("kind", ["ROIPool", "ROIWarp", "ROIWarpMax"])
def test_quantised_types_pool_each_box_from_its_level(kind):
    """Boxes of 40, 400 and 150 pixels: levels 2, 4 and 3, in the order of the boxes; gradients reach each."""
    features = [torch.full_like(f, level).requires_grad_() for level, f in enumerate(pyramid(2, size=512), 2)]
    sizes = [[40.0, 400.0], [150.0]]
    boxes = [Boxes(torch.tensor([[8.0, 8.0, 8 + size, 8 + size] for size in image])) for image in sizes]
    pooled = ROIPooler(3, SCALES, 0, kind)(features, boxes)
    assert [row.unique().tolist() for row in pooled.detach().round(decimals=4)] == [[2], [4], [3]]
    pooled.sum().backward()
    assert [f.grad.abs().sum().item() > 0 for f in features] == [True, True, True, False]
    # The second image holds the third box only.
    assert [f.grad[1].abs().sum().item() > 0 for f in features[:3]] == [False, True, False]


def test_unknown_type_is_named():
    with pytest.raises(ValueError, match="ROICrop"):
        ROIPooler(7, SCALES, 0, "ROICrop")


class _Traced(torch.nn.Module):
    """A pooler on tensors, as a traced model calls it."""

    def __init__(self, pooler):
        super().__init__()
        self.pooler = pooler

    def forward(self, p2, p3, first, second):
        return self.pooler([p2, p3], [Boxes(first), Boxes(second)])


def test_a_trace_takes_any_number_of_boxes():
    features = pyramid(2)[:2]
    module = _Traced(ROIPooler(7, SCALES[:2], 2, "ROIAlignV2", canonical_level=3))
    traced = torch.jit.trace(module, (*features, *(b.tensor for b in random_boxes(3, 2))))
    for counts in ((5, 1), (0, 4), (3, 2)):
        boxes = [b.tensor for b in random_boxes(*counts)]
        torch.testing.assert_close(traced(*features, *boxes), module(*features, *boxes))
