"""Every CPU op at every instruction set of this machine: equal results, and a clear error for a bad one."""

import pytest
import torch
from helpers.simd_levels import ALL, simd_levels

from mrcnn_plugin.ops import (
    encode_masks,
    heatmaps_to_keypoints,
    library,
    multi_level_roi_align,
    nms_segments,
    paste_masks,
    rasterize_polygons,
    winograd_conv2d,
    winograd_weight,
)

pytestmark = pytest.mark.skipif(not simd_levels(), reason="the native library was not built")

IMAGE = (97, 131)
# Rounding of a pooled number or a gradient of the size of 1, several times over.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture
def at_level(monkeypatch):
    """at_level(level, run): what `run` returns at a level."""

    def run_at(level, run):
        monkeypatch.setenv("MRCNN_PLUGIN_SIMD", level)
        assert library.simd_level() == level
        return run()

    return run_at


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([IMAGE[1], IMAGE[0]])
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


def pool(dtype=torch.float32, mode="avg", layout=torch.contiguous_format):
    """Pooled features and the gradients of two levels."""
    generator = torch.Generator().manual_seed(3)
    rois = torch.cat([torch.randint(2, (40, 1), generator=generator), random_boxes(40, generator)], 1)
    features = [
        torch.randn(2, 37, 24 >> i, 32 >> i, generator=generator)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for i in range(2)
    ]
    settings = {"canonical_box_size": 56, "canonical_level": 3, "mode": mode}
    pooled = multi_level_roi_align(features, rois, [0.25, 0.125], (7, 5), 2, **settings)
    weights = torch.randn(pooled.shape, generator=generator).to(dtype)
    return [pooled.detach(), *torch.autograd.grad(pooled, features, weights)]


def random_masks(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    coarse = torch.rand(30, 1, 6, 6, generator=generator)
    masks = torch.nn.functional.interpolate(coarse, (28, 28), mode="bilinear")[:, 0]
    return masks, random_boxes(30, generator)


def paste(threshold=0.5):
    return [paste_masks(*random_masks(torch.Generator().manual_seed(4)), IMAGE, threshold)]


def encode():
    masks, boxes = random_masks(torch.Generator().manual_seed(5))
    rles, areas, tight_boxes = encode_masks(masks, boxes, IMAGE, return_stats=True)
    return [[rle["counts"] for rle in rles], areas.tolist(), tight_boxes.tolist()]


def find_keypoints():
    generator = torch.Generator().manual_seed(6)
    maps = torch.randn(20, 17, 56, 48, generator=generator)
    return heatmaps_to_keypoints(maps, random_boxes(20, generator))


def rasterize():
    generator = torch.Generator().manual_seed(7)
    corners = torch.rand(30, 7, 2, generator=generator, dtype=torch.float64) * 100
    polygons = [[polygon.flatten().numpy()] for polygon in corners]
    return [rasterize_polygons(polygons, random_boxes(30, generator), 28)]


def pool_max():
    return pool(mode="max")


def paste_soft():
    return paste(threshold=-1)


def suppress():
    boxes = random_boxes(300, torch.Generator().manual_seed(6))
    return [nms_segments(boxes, torch.tensor([0, 120, 290]), 0.3)]


def convolve():
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(2, 32, 11, 14, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(48, 32, 3, 3, generator=generator) / 17
    return winograd_conv2d(x, winograd_weight(weight), torch.randn(48, generator=generator))


OPS = [pool, pool_max, paste, paste_soft, encode, find_keypoints, rasterize, suppress, convolve]


@pytest.mark.parametrize("run", [pool_max, paste, paste_soft, encode, rasterize, suppress])
@pytest.mark.parametrize("level", simd_levels()[1:])
def test_the_same_bits_at_every_level(run, level, at_level):
    for ours, expected in zip(at_level(level, run), at_level("baseline", run), strict=True):
        equal = torch.equal(ours, expected) if isinstance(ours, torch.Tensor) else ours == expected
        assert equal


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("level", simd_levels()[1:])
def test_averages_agree_to_rounding(level, dtype, layout, at_level):
    def run():
        return pool(dtype, layout=layout)

    for ours, expected in zip(at_level(level, run), at_level("baseline", run), strict=True):
        scale = 1 + expected.double().abs()
        assert ((ours.double() - expected.double()).abs() / scale).max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("level", simd_levels()[1:])
def test_keypoints_lie_at_the_same_pixels(level, at_level):
    ours, expected = at_level(level, find_keypoints), at_level("baseline", find_keypoints)
    assert torch.equal(ours[..., :2], expected[..., :2])
    torch.testing.assert_close(ours[..., 2:], expected[..., 2:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", simd_levels()[1:])
def test_convolutions_agree_to_rounding(level, at_level):
    torch.testing.assert_close(at_level(level, convolve), at_level("baseline", convolve), atol=2e-5, rtol=0)


def test_the_setting_chooses_the_kernels(at_level):
    # Fused multiply-adds round otherwise: of thousands of sums some differ in their last bit.
    if "avx2" not in simd_levels():
        pytest.skip("a processor without fused multiply-adds")
    assert not torch.equal(at_level("avx2", pool)[0], at_level("baseline", pool)[0])
    assert not torch.equal(at_level("avx2", find_keypoints), at_level("baseline", find_keypoints))


def test_the_widest_level_is_the_default(monkeypatch):
    monkeypatch.delenv("MRCNN_PLUGIN_SIMD", raising=False)
    assert library.simd_level() == simd_levels()[-1]


@pytest.mark.parametrize("value", ["sse9", "AVX2", *(level for level in ALL if level not in simd_levels())])
@pytest.mark.parametrize("run", OPS)
def test_a_level_that_this_processor_lacks_is_an_error_of_every_op(run, value, monkeypatch):
    monkeypatch.setenv("MRCNN_PLUGIN_SIMD", value)
    names = ", ".join(simd_levels())
    with pytest.raises(RuntimeError, match=rf"MRCNN_PLUGIN_SIMD must name .* \({names}\), got '{value}'"):
        run()
