"""ROIPool and ROIWarp: hand-computed values, and what quantisation does to them."""

from __future__ import annotations

import pytest
import torch
import torchvision

from mrcnn_plugin.ops import ROIAlign, ROIPool, ROIWarp
from mrcnn_plugin.ops.roi_pool import quantize_rois

FEATURES = torch.arange(64, dtype=torch.float32).reshape(1, 1, 8, 8)


def test_quantised_rois_are_those_of_roi_pool():
    rois = torch.tensor([[0, 7.9, 8.1, 31.9, 24.0], [1, 10.0, -10.0, 9.0, 10.0]])
    # Over 4: 1.975, 2.025, 7.975, 6 and 2.5, -2.5, 2.25, 2.5.
    expected = [[0, 2, 2, 9, 7], [1, 3, -3, 4, 4]]
    assert quantize_rois(rois, 0.25).tolist() == expected


def test_roi_warp_averages_the_quantised_pixels():
    # Rounded corners (1, 2) and (2, 3): pixels 17, 18, 25, 26.
    box = torch.tensor([[0, 1.4, 1.6, 2.3, 3.4]])
    assert ROIWarp(1, 1.0)(FEATURES, box).item() == 21.5
    assert ROIWarp(1, 1.0, mode="max")(FEATURES, box).item() == 26
    assert ROIWarp(2, 1.0)(FEATURES, box).flatten().tolist() == [17, 18, 25, 26]
    assert ROIPool(2, 1.0)(FEATURES, box).flatten().tolist() == [17, 18, 25, 26]


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_warp_ignores_moves_within_a_pixel_and_roi_align_does_not(mode):
    features = torch.randn(1, 3, 16, 16)
    box = torch.tensor([[0, 16.2, 16.2, 47.8, 40.2]])
    moved = box + torch.tensor([0, 1.0, -1.0, 1.0, -1.0])
    warp, align = ROIWarp(3, 0.25, mode=mode), ROIAlign(3, 0.25, 0, mode=mode)
    assert torch.equal(warp(features, box), warp(features, moved))
    assert (align(features, box) - align(features, moved)).abs().max() > 1e-2


def test_roi_pool_is_torchvision_s_in_any_dtype_of_boxes():
    features = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    boxes = [torch.tensor([[0.0, 1.0, 30.0, 25.0]]), torch.tensor([[5.0, 5.0, 60.0, 60.0]])]
    expected = torchvision.ops.roi_pool(features, [one.double() for one in boxes], 7, 0.25)
    assert torch.equal(ROIPool(7, 0.25)(features, boxes), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_pool_of_half_precision_keeps_the_boxes_exact(dtype):
    features = torch.randn(1, 2, 4, 300).to(dtype).requires_grad_()
    # bfloat16 holds 257 as 256, and then another pixel would be pooled.
    rois = torch.tensor([[0, 257.0, 1.0, 257.0, 1.0]])
    pooled = ROIPool(1, 1.0)(features, rois)
    assert pooled.dtype == dtype
    assert torch.equal(pooled[0, :, 0, 0], features[0, :, 1, 257])
    pooled.sum().backward()
    assert features.grad.dtype == dtype
    assert features.grad.nonzero().tolist() == [[0, 0, 1, 257], [0, 1, 1, 257]]


@pytest.mark.parametrize(
    "module", [ROIPool((2, 3), 0.5), ROIWarp((2, 3), 0.5), ROIWarp((2, 3), 0.5, 2, "max")]
)
def test_gradients_and_repr(module):
    features = torch.randn(2, 2, 9, 11, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0, 0.0, 0, 15, 12], [1, 3, 3, 19, 17]], dtype=torch.float64)
    assert module(features, boxes).shape == (2, 2, 2, 3)
    assert torch.autograd.gradcheck(lambda x: module(x, boxes), features)
    assert "spatial_scale=0.5" in repr(module)
