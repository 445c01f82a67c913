"""heatmaps_to_keypoints by its CUDA kernel, executed on the host and on a device."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.keypoint_cases import KINDS, heatmaps, noise, person_rois

from mrcnn_plugin.ops import heatmaps_to_keypoints


def on(backend, maps, rois, order=("ascending", 0)):
    with backend.ops(*order):
        return heatmaps_to_keypoints(maps.to(backend.device), rois.to(backend.device)).cpu()


def assert_equal_to_cpu(backend, maps, rois):
    """The CPU kernel is compared with Detectron2's function in test_heatmaps_to_keypoints.py."""
    expected = heatmaps_to_keypoints(maps, rois)
    torch.testing.assert_close(on(backend, maps, rois), expected, atol=1e-4, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_surfaces(backend, kind):
    maps, rois = heatmaps(kind, n=4, k=2, size=28), person_rois(4) * 0.3
    rois[0] = torch.tensor([3.0, 4.0, 2.0, 1.0])
    rois[1] = math.nan
    maps[2, 0, 5, 5] = math.nan
    assert_equal_to_cpu(backend, maps, rois)


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (130, 5)])
def test_sizes(backend, shape):
    assert_equal_to_cpu(backend, noise(3, 2, *shape), person_rois(3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes(backend, dtype):
    assert_equal_to_cpu(backend, noise(2, 2, 14, 14).to(dtype), person_rois(2) * 0.2)


def test_hostile_values(backend):
    maps, rois = noise(6, 2, 9, 9), person_rois(6)
    maps[0, 0, 3, 4], maps[1, 1, 0, 0], maps[2, 0, 8, 8], maps[3, 0, 2, 2] = math.inf, -math.inf, 3e38, 1e37
    rois[4, 2], rois[5, 1] = math.inf, 3e38
    assert_equal_to_cpu(backend, maps, rois)


def test_empty(backend):
    assert on(backend, noise(0, 2, 5, 5), person_rois(0)).shape == (0, 2, 4)
    assert on(backend, noise(2, 0, 5, 5), person_rois(2)).shape == (2, 0, 4)


def check_random_settings(backend, seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    for i in range(count):
        maps = noise(
            int(rng.integers(1, 3)), int(rng.integers(1, 3)), *rng.integers(1, 20, 2).tolist(), seed=i
        )
        if rng.random() < 0.3:
            maps = maps.mul(2).round()
        rois = person_rois(len(maps), seed=i) * float(rng.choice([0.01, 0.1, 0.5]))
        if rng.random() < 0.1:
            rois[0, int(rng.integers(4))] = float(rng.choice([math.nan, math.inf, 1e6, -5.0]))
        assert_equal_to_cpu(backend, maps, rois)


def test_random_settings(backend):
    check_random_settings(backend, 0, 20)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_2000_random_settings(backend, part):
    check_random_settings(backend, 1 + part, 500)


def test_same_bits_in_any_order_of_threads(backend, schedule):
    maps, rois = heatmaps("plateaus", n=2, k=2, size=28), person_rois(2)
    assert torch.equal(on(backend, maps, rois, schedule), on(backend, maps, rois))
