"""Copies of the kernels with one barrier removed, one index off by one, one bound widened: each is caught."""

from __future__ import annotations

import functools

import pytest
import torch
from helpers.keypoint_cases import heatmaps, person_rois
from helpers.mask_cases import blobs
from helpers.polygon_cases import instances

from mrcnn_plugin.ops import (
    encode_masks,
    heatmaps_to_keypoints,
    multi_level_roi_align,
    paste_masks,
    rasterize_polygons,
)

from . import build, runtime

ENCODE = "masks/cuda/encode_masks.cu"
PASTE = "masks/cuda/paste_masks.cu"
POLYGONS = "polygons/cuda/rasterize_polygons.cu"
KEYPOINTS = "keypoints/cuda/heatmaps_to_keypoints.cu"
FORWARD = "roi_align/cuda/forward.cuh"
SOURCES = [ENCODE, PASTE, POLYGONS, KEYPOINTS, "roi_align/cuda/multi_level_roi_align.cu"]

# One change for each op: (file, text, replacement, what the error says).
PLANTED = {
    "barrier removed": {
        "encode": (
            ENCODE,
            "before += all;\n    __syncthreads();\n  }\n  if (threadIdx.x == 0) flips",
            "before += all;\n  }\n  if (threadIdx.x == 0) flips",
            "scan_columns_kernel.*data race",
        ),
        "polygons": (
            POLYGONS,
            "mask_size, steps);\n    __syncthreads();",
            "mask_size, steps);",
            "rasterize_kernel.*data race",
        ),
        "keypoints": (
            KEYPOINTS,
            "kRoundingSlack * limit, shared);\n  __syncthreads();",
            "kRoundingSlack * limit, shared);",
            "keypoints_kernel.*data race",
        ),
        "roi_align": (
            FORWARD,
            "      __syncthreads();\n      const int slice = rows",
            "      const int slice = rows",
            r"pool_channels_first.*(data race|never written)",
        ),
    },
    "index off by one": {
        "encode": (ENCODE, "next[__popc(changes", "next[1 + __popc(changes", "write_flips_kernel.*outside"),
        "paste": (
            PASTE,
            "image[static_cast<int64_t>(y) * p.width + x]",
            "image[static_cast<int64_t>(y) * p.width + x + 1]",
            "paste_masks_kernel.*outside all tensors",
        ),
        "polygons": (
            POLYGONS,
            "inside[row] >> column & 1",
            "inside[row + 1] >> column & 1",
            "rasterize_kernel.*offset .* of the dynamic shared memory",
        ),
        "keypoints": (KEYPOINTS, "maps_per_roi * 4", "maps_per_roi * 4 + 1", "keypoints_kernel.*outside"),
        "roi_align": (
            FORWARD,
            "rounded<T>(sum).store_streaming(to);",
            "rounded<T>(sum).store_streaming(to + V);",
            "pool_channels_last.*outside all tensors",
        ),
    },
    "bound widened": {
        "encode": (ENCODE, "run < runs.size(); run += kThreads", "run <= runs.size(); run += kThreads", None),
        "paste": (
            PASTE,
            "if (x >= region.x1) continue;",
            "if (x > region.x1) continue;",
            "paste_masks_kernel",
        ),
        "polygons": (
            POLYGONS,
            "row < mask_size; row += kThreads) inside[row] = 0",
            "row <= mask_size; row += kThreads) inside[row] = 0",
            "rasterize_kernel.*of the dynamic shared memory",
        ),
        "keypoints": (KEYPOINTS, "i < size; i += kThreads) sum", "i <= size; i += kThreads) sum", "outside"),
        "roi_align": (
            FORWARD,
            "for (int i = threadIdx.x; i < channels * columns; i += kForwardThreads)",
            "for (int i = threadIdx.x; i <= channels * columns; i += kForwardThreads)",
            "pool_channels_first",
        ),
    },
}


@functools.cache
def planted(kind: str) -> runtime.Host:
    """All ops, each with its bug of one kind."""
    changes = {file: (old, new) for file, old, new, _ in PLANTED[kind].values()}
    return runtime.Host(*build.build(SOURCES, changes))


def encode() -> list[dict]:
    # All of an image with more columns than threads, noise: many runs.
    masks = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    return encode_masks(masks, torch.tensor([[-10.0, -10.0, 310.0, 50.0]]), (40, 300))


def paste() -> torch.Tensor:
    return paste_masks(blobs(1), torch.tensor([[-5.0, -5.0, 45.0, 45.0]]), (40, 40), 0.0)


def polygons() -> torch.Tensor:
    return rasterize_polygons(*instances(3, seed=2), 33)


def keypoints() -> torch.Tensor:
    return heatmaps_to_keypoints(heatmaps("rough", n=2, k=1, size=14), person_rois(2) * 0.2)


def roi_align() -> list[torch.Tensor]:
    boxes = torch.tensor([[0.0, 2, 3, 60, 50], [0, 30, 20, 90, 95]])
    features = torch.randn(1, 8, 25, 25, generator=torch.Generator().manual_seed(0))
    return [
        multi_level_roi_align([features.contiguous(memory_format=memory_format)], boxes, [0.25], 7, 2)
        for memory_format in (torch.contiguous_format, torch.channels_last)
    ]


RUNS = {run.__name__: run for run in (encode, paste, polygons, keypoints, roi_align)}


@pytest.mark.parametrize("order", ["ascending", "random"])
@pytest.mark.parametrize(("kind", "op"), [(kind, op) for kind, ops in PLANTED.items() for op in ops])
def test_planted_bug_is_caught(kind, op, order):
    with planted(kind).ops(order, seed=1), pytest.raises(RuntimeError, match="CUDA on the host: ") as error:
        RUNS[op]()
    what = PLANTED[kind][op][3]
    if what:
        error.match(what)


@pytest.mark.parametrize("op", RUNS)
def test_the_same_calls_without_the_bug_equal_the_cpu(op):
    expected = RUNS[op]()
    with runtime.host().ops("random", seed=1):
        found = RUNS[op]()
    if op == "encode":
        assert found == expected
    else:
        torch.testing.assert_close(found, expected)
