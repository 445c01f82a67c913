"""paste_masks and encode_masks by their CUDA kernels, executed on the host and on a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.mask_cases import blobs, paste_inputs, random_boxes
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from mrcnn_plugin.ops import encode_masks, paste_masks
from mrcnn_plugin.ops.library import native

SHAPE = (60, 85)


def assert_both_equal(backend, masks, boxes, shape, threshold, order=("ascending", 0)):
    """Pixels equal the CPU's, soft ones too, and codes, areas and boxes equal pycocotools'."""
    on_device = masks.to(backend.device), boxes.to(backend.device)
    pasted = paste_masks(masks, boxes, shape, threshold)
    soft = paste_masks(masks, boxes, shape, -1.0)
    with backend.ops(*order):
        assert torch.equal(paste_masks(*on_device, shape, threshold).cpu(), pasted)
        assert torch.equal(paste_masks(*on_device, shape, -1.0).cpu(), soft)
        rles, areas, tight = encode_masks(*on_device, shape, threshold, return_stats=True)
    expected = [coco_mask.encode(np.asfortranarray(mask)) for mask in pasted.numpy().astype(np.uint8)]
    assert rles == expected
    assert areas.tolist() == [int(coco_mask.area(rle)) for rle in expected]
    assert tight.tolist() == [coco_mask.toBbox(rle).tolist() for rle in expected]


def test_native_kernels_are_used(backend):
    assert native(backend.device)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_blobs(backend, threshold):
    masks, boxes = blobs(6), random_boxes(6, *SHAPE)
    boxes[0] = torch.tensor([5.0, -5.0, 75.0, 70.0])
    for shape in (SHAPE, (1, 50), (50, 1), (33, 64)):
        assert_both_equal(backend, masks, boxes, shape, threshold)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
def test_dtypes(backend, dtype):
    masks = blobs(3, 14)
    masks = masks.to(dtype) if dtype.is_floating_point else (masks > 0.5).to(dtype)
    assert_both_equal(backend, masks, random_boxes(3, *SHAPE), SHAPE, 0.5)


def test_noise_with_many_runs_and_more_columns_than_threads(backend):
    masks = torch.rand(2, 28, 28, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[2.0, 3.0, 298.0, 38.0], [-10.0, -10.0, 310.0, 50.0]])
    assert_both_equal(backend, masks, boxes, (40, 300), 0.5)


def test_more_instances_than_threads(backend):
    masks = blobs(260, 3)
    assert_both_equal(backend, masks, random_boxes(260, 6, 9), (6, 9), 0.5)


def test_empty(backend):
    masks, boxes = (x.to(backend.device) for x in (blobs(4), random_boxes(4, *SHAPE)))
    with backend.ops():
        assert encode_masks(masks[:0], boxes[:0], SHAPE) == []
        assert paste_masks(masks[:0], boxes[:0], SHAPE).shape == (0, *SHAPE)
        assert paste_masks(masks, boxes, (0, 5)).shape == (4, 0, 5)
        assert encode_masks(masks, boxes, (0, 9)) == [{"size": [0, 9], "counts": b"0"}] * 4


@pytest.mark.parametrize("examples", [25, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_settings(backend, examples):
    """Boxes and masks that no sane model gives among them."""

    @settings(max_examples=examples, deadline=None)
    @given(paste_inputs())
    def check(inputs):
        assert_both_equal(backend, *inputs)

    check()


def test_same_bits_in_any_order_of_threads(backend, schedule):
    assert_both_equal(backend, blobs(3), random_boxes(3, *SHAPE), SHAPE, 0.5, schedule)
