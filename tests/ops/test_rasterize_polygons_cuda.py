"""rasterize_polygons by its CUDA kernel, executed on the host and on a device."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.polygon_cases import detectron2_masks, instances

from mrcnn_plugin.ops import pack_polygons, rasterize_polygons


def on(backend, polygons, boxes, mask_size, order=("ascending", 0)):
    with backend.ops(*order):
        return rasterize_polygons(polygons, boxes.to(backend.device), mask_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mask_size", [1, 7, 28, 65])
def test_equal_to_detectron2(backend, mask_size, dtype):
    """And so to pycocotools, which draws for it."""
    polygons, boxes = instances(30, seed=mask_size)
    boxes = boxes.to(dtype)
    masks = on(backend, polygons, boxes, mask_size)
    assert masks.device.type == backend.device
    assert torch.equal(masks.cpu(), detectron2_masks(polygons, boxes, mask_size))


def test_boxes_that_are_not_finite_and_far_coordinates(backend):
    square = [2.0, 2.0, 6.0, 2.0, 6.0, 6.0, 2.0, 6.0]
    odd = torch.tensor([[math.nan, 0, 8, 8], [0, 0, math.inf, 8], [-3e38, 0, 3e38, 8]])
    assert not on(backend, [[square]] * 3, odd, 8).any()
    far = [-1e12, -1e12, 4.0, -1e12, 4.0, 1e12, -1e12, 1e12]
    mask = on(backend, [[far]], torch.tensor([[0.0, 0.0, 8.0, 8.0]]), 8)[0].cpu()
    assert torch.equal(mask, torch.arange(8).expand(8, 8) < 4)


def test_empty(backend):
    assert on(backend, [], torch.zeros(0, 4), 28).shape == (0, 28, 28)
    assert not on(backend, [[], []], torch.tensor([[0.0, 0, 8, 8]] * 2), 8).any()


def test_offsets_out_of_bounds_read_nothing_out_of_bounds(backend):
    polygons, boxes = instances(5)
    coords, polygon_offsets, instance_offsets = pack_polygons(polygons).to(backend.device)
    arguments = (coords, polygon_offsets * 1000 - 500, instance_offsets * 1000 - 500)
    with backend.ops():
        masks = torch.ops.mrcnn_plugin.rasterize_polygons(*arguments, boxes.to(backend.device), 28)
    assert masks.shape == (5, 28, 28)


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_settings(backend, count):
    for i in range(0, count, 10):
        polygons, boxes = instances(10, seed=1000 + i)
        mask_size = 1 + i * 7 % 40
        masks = on(backend, polygons, boxes, mask_size)
        assert torch.equal(masks.cpu(), detectron2_masks(polygons, boxes, mask_size))


def test_same_bits_in_any_order_of_threads(backend, schedule):
    polygons, boxes = instances(6, seed=3)
    assert torch.equal(on(backend, polygons, boxes, 40, schedule), on(backend, polygons, boxes, 40))
