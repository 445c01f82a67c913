"""Every CPU op on 1, 2 and 7 threads gives the same results, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from mrcnn_plugin import ops

COUNTS = (1, 2, 7)
HEIGHT, WIDTH = 97, 131
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
# More boxes than any op gives one thread at once.
BOXES = 150


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    former = torch.get_num_threads()
    yield
    torch.set_num_threads(former)


def on_every_count(call: Callable[[], list]) -> None:
    """Compares what a call returns on so many threads."""
    results = []
    for count in COUNTS:
        torch.set_num_threads(count)
        assert torch.get_num_threads() == count
        results.append(call())
    for other in results[1:]:
        for ours, expected in zip(other, results[0], strict=True):
            assert torch.equal(ours, expected) if isinstance(ours, Tensor) else ours == expected


def drawn(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes_and_rois(count: int = BOXES) -> tuple[Tensor, Tensor]:
    """(K, 4) and (K, 5), some of them nearly as large as the image."""
    corners = torch.rand(count, 2, 2, generator=drawn()) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    return boxes, torch.cat([torch.randint(2, (count, 1), generator=drawn()), boxes], dim=1)


def feature_maps(levels: int, dtype: torch.dtype, layout: torch.memory_format) -> list[Tensor]:
    """Of 67 channels, which no number of threads divides."""
    sizes = [(2, 67, -(-HEIGHT >> (2 + i)), -(-WIDTH >> (2 + i))) for i in range(levels)]
    maps = [torch.randn(size, generator=drawn(i)).to(dtype) for i, size in enumerate(sizes)]
    return [each.contiguous(memory_format=layout).requires_grad_() for each in maps]


@pytest.mark.parametrize("deterministic", [False, True], ids=["", "deterministic"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_and_its_gradient(mode, dtype, layout, deterministic):
    maps = feature_maps(2, dtype, LAYOUTS[layout])
    _, rois = boxes_and_rois()
    gradient = torch.randn(len(rois), 67, 7, 5, generator=drawn()).to(dtype)

    def call() -> list[Tensor]:
        settings = {"canonical_box_size": 56, "canonical_level": 3, "mode": mode}
        pooled = ops.multi_level_roi_align(maps, rois, [1 / 4, 1 / 8], (7, 5), 2, **settings)
        alone = ops.roi_align(maps[0], rois, (3, 2), 1 / 4, 0, mode=mode)
        return [pooled.detach(), alone.detach(), *torch.autograd.grad(pooled, maps, gradient)]

    torch.use_deterministic_algorithms(deterministic)
    try:
        on_every_count(call)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("module", [ops.ROIPool(3, 1 / 4), ops.ROIWarp(3, 1 / 4, 2, mode="max")], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_poolings(layout, module):
    (features,) = feature_maps(1, torch.float32, LAYOUTS[layout])
    _, rois = boxes_and_rois()

    def call() -> list[Tensor]:
        pooled = module(features, rois)
        return [pooled.detach(), *torch.autograd.grad(pooled.square().sum(), features)]

    on_every_count(call)


@pytest.mark.parametrize("threshold", [0.5, -1])
def test_pasted_masks(threshold):
    boxes, _ = boxes_and_rois()
    masks = torch.rand(BOXES, 28, 28, generator=drawn())
    on_every_count(lambda: [ops.paste_masks(masks, boxes, (HEIGHT, WIDTH), threshold)])


def test_encoded_masks():
    boxes, _ = boxes_and_rois()
    masks = torch.rand(BOXES, 28, 28, generator=drawn())

    def call() -> list:
        codes, areas, tight_boxes = ops.encode_masks(masks, boxes, (HEIGHT, WIDTH), return_stats=True)
        return [codes, areas, tight_boxes]

    on_every_count(call)


def test_keypoints():
    boxes, _ = boxes_and_rois(40)
    maps = torch.randn(40, 17, 28, 24, generator=drawn())
    on_every_count(lambda: [ops.heatmaps_to_keypoints(maps, boxes)])


def test_rasterized_polygons():
    boxes, _ = boxes_and_rois()
    corners = torch.rand(BOXES, 9, 2, generator=drawn(), dtype=torch.float64) * WIDTH
    polygons = [[polygon.flatten().numpy()] for polygon in corners]
    on_every_count(lambda: [ops.rasterize_polygons(polygons, boxes, 28)])


def test_suppression():
    boxes, _ = boxes_and_rois(900)
    scores = torch.rand(900, generator=drawn())
    offsets = torch.tensor([0, 10, 200, 210, 500, 501, 880, 900])
    stacked = boxes.view(9, 100, 4), scores.view(9, 100)
    groups = torch.randint(9, (900,), generator=drawn())
    on_every_count(
        lambda: [
            ops.nms_segments(boxes, offsets, 0.3),
            ops.nms_mask(*stacked, 0.3),
            ops.grouped_nms(boxes, groups, 9, 0.3),
        ]
    )


def test_convolutions():
    x = torch.randn(2, 64, 61, 47, generator=drawn()).contiguous(memory_format=torch.channels_last)
    weight = ops.winograd_weight(torch.randn(96, 64, 3, 3, generator=drawn()) / 24)
    bias = torch.randn(96, generator=drawn())
    on_every_count(lambda: [ops.winograd_conv2d(x, weight, bias, relu=True)])
