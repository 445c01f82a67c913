import math

import pytest
import torch
from detectron2.structures.keypoints import heatmaps_to_keypoints as detectron2_keypoints
from helpers.keypoint_cases import KINDS, heatmaps, noise, person_rois
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mrcnn_plugin.ops import heatmaps_to_keypoints, reference
from mrcnn_plugin.ops.library import native


def resampled(heatmap: torch.Tensor, roi: torch.Tensor) -> torch.Tensor:
    """Float64 bicubic values of one map (H, W) at the pixels of its RoI."""
    width, height = (roi[2:] - roi[:2]).clamp(min=1).ceil().long().tolist()
    return F.interpolate(heatmap[None, None].double(), (height, width), mode="bicubic")[0, 0]


def assert_equal_to_detectron2(maps: torch.Tensor, rois: torch.Tensor) -> int:
    """Every keypoint agrees, save where another pixel is as high within rounding; returns how many."""
    result, expected = heatmaps_to_keypoints(maps, rois), detectron2_keypoints(maps, rois)
    scale = maps.abs().amax(dim=(2, 3)).clamp(min=1)
    assert ((result[..., 2] - expected[..., 2]).abs() <= 2e-6 * scale).all()
    torch.testing.assert_close(result[..., 3], expected[..., 3], atol=1e-4, rtol=1e-3)
    moved = (result[..., :2] - expected[..., :2]).abs().amax(dim=2) > 1e-3
    for i, k in moved.nonzero().tolist():
        values = resampled(maps[i, k], rois[i])
        size = (rois[i, 2:] - rois[i, :2]).clamp(min=1)
        x, y = ((result[i, k, :2] - rois[i, :2]) / size * size.ceil()).floor().long().tolist()
        assert values[y, x] >= values.max() - 2e-6 * scale[i, k]
    return int(moved.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_detectron2(kind):
    maps = heatmaps(kind)
    ties = assert_equal_to_detectron2(maps, person_rois(len(maps)))
    # With one torch kernel as the other's model, ties fall the same way; on another they may not.
    assert ties <= (maps.shape[0] * maps.shape[1]) // 4


@pytest.mark.parametrize("sides", [(0.3, 0.2), (5, 9), (56, 56), (20.5, 300.25), (1, 700), (56.1, 111.9)])
def test_roi_sizes(sides):
    maps = heatmaps("rough", n=2)
    roi = torch.tensor([[10.25, 20.5, 10.25 + sides[0], 20.5 + sides[1]]]).repeat(2, 1)
    assert_equal_to_detectron2(maps, roi)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (2, 2), (14, 28), (57, 33)])
def test_map_shapes(shape):
    assert_equal_to_detectron2(noise(4, 2, *shape), person_rois(4))


def test_hand_computed():
    # A map of one cell is flat: first pixel, its centre at half a corrected pixel.
    result = heatmaps_to_keypoints(torch.full((1, 1, 1, 1), 3.0), torch.tensor([[10.0, 20.0, 13.5, 21.6]]))
    assert result[0, 0].tolist() == pytest.approx([10 + 0.5 * 3.5 / 4, 20 + 0.5 * 1.6 / 2, 3, 1])
    # Same size: nothing is resampled, so the peak is the highest cell and the sum is over all four.
    maps = torch.tensor([[[[0.0, 1.0], [2.0, 0.0]]]])
    result = heatmaps_to_keypoints(maps, torch.tensor([[5.0, 6.0, 7.0, 8.0]]))
    score = 1 / (1 + math.exp(-1) + 2 * math.exp(-2))
    assert result[0, 0].tolist() == pytest.approx([5.5, 7.5, 2, score])


def test_first_of_equal_pixels():
    maps = torch.zeros(1, 3, 8, 8)
    maps[0, 1, 6, 1] = maps[0, 1, 2, 5] = maps[0, 1, 2, 7] = 1
    maps[0, 2, 7, 7] = 1
    result = heatmaps_to_keypoints(maps, torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
    assert result[0, :, :2].tolist() == [[0.5, 0.5], [5.5, 2.5], [7.5, 7.5]]
    assert_equal_to_detectron2(torch.full((1, 1, 56, 56), -7.25), torch.tensor([[0.0, 0.0, 133.0, 257.0]]))


def test_reference_agrees():
    maps, rois = heatmaps("rough", n=3), person_rois(3)
    expected = reference.keypoints.heatmaps_to_keypoints(maps, rois)
    torch.testing.assert_close(heatmaps_to_keypoints(maps, rois), expected, atol=1e-4, rtol=1e-4)


def test_results_do_not_depend_on_threads_or_layout():
    maps, rois = heatmaps("rough", n=5), person_rois(5)
    expected = heatmaps_to_keypoints(maps, rois)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(heatmaps_to_keypoints(maps, rois), expected)
    finally:
        torch.set_num_threads(threads)
    strided = maps.to(memory_format=torch.channels_last)
    assert torch.equal(heatmaps_to_keypoints(strided, rois.t().contiguous().t()), expected)


def test_not_a_number():
    maps, rois = heatmaps("rough", n=6, k=2), person_rois(6)
    expected = heatmaps_to_keypoints(maps, rois)
    maps[0, 0, 3, 4] = math.nan
    maps[1, 1, 0, 0] = math.inf
    maps[2, 0, 55, 55] = -math.inf
    maps[3, 0, 9, 9] = 3e38
    rois[4, 2] = math.nan
    rois[5, 1] = -math.inf
    result = heatmaps_to_keypoints(maps, rois)
    bad = torch.zeros(6, 2, dtype=torch.bool)
    bad[0, 0] = bad[1, 1] = bad[2, 0] = bad[3, 0] = bad[4] = bad[5] = True
    assert result[bad].isnan().all()
    assert torch.equal(result[~bad], expected[~bad])
    torch.testing.assert_close(
        reference.keypoints.heatmaps_to_keypoints(maps, rois), result, equal_nan=True, atol=1e-4, rtol=1e-4
    )


def test_huge_roi_is_searched_on_a_coarser_grid():
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 2, 5] = 1
    result = heatmaps_to_keypoints(maps, torch.tensor([[0.0, 0.0, 8e8, 8e3]]))
    assert result[0, 0, 0].item() == pytest.approx(5.5e8, rel=2e-4)
    assert result[0, 0, 1].item() == pytest.approx(2.5e3, rel=2e-4)
    assert result[0, 0, 2].item() == pytest.approx(1, abs=1e-5)


def test_dtypes():
    maps, rois = heatmaps("peaked", n=2), person_rois(2)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        result = heatmaps_to_keypoints(maps.to(dtype), rois)
        assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(result.float(), heatmaps_to_keypoints(maps.to(dtype).float(), rois))


def test_empty_and_no_gradient():
    assert heatmaps_to_keypoints(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4)).shape == (0, 17, 4)
    assert heatmaps_to_keypoints(torch.zeros(2, 0, 5, 5), torch.zeros(2, 4)).shape == (2, 0, 4)
    maps = heatmaps("rough", n=1).requires_grad_()
    assert not heatmaps_to_keypoints(maps, person_rois(1)).requires_grad


@pytest.mark.parametrize(
    ("maps", "rois", "error", "message"),
    [
        ([[1.0]], torch.zeros(1, 4), TypeError, "maps must be a torch.Tensor, got list"),
        (
            torch.zeros(1, 1, 2, 2, dtype=torch.int64),
            torch.zeros(1, 4),
            TypeError,
            "maps must have a floating",
        ),
        (
            torch.zeros(1, 2, 2),
            torch.zeros(1, 4),
            ValueError,
            r"maps must have shape \(K, num_keypoints",
        ),
        (torch.zeros(1, 1, 0, 2), torch.zeros(1, 4), ValueError, "1 to 16384 rows and columns"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(2, 4), ValueError, r"rois must have shape \(K, 4\) with K = 1"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 5), ValueError, r"got \(1, 5\)"),
        (torch.zeros(1, 1, 2, 2), torch.zeros(1, 4, device="meta"), ValueError, "on the device of maps, cpu"),
    ],
)
def test_errors(maps, rois, error, message):
    with pytest.raises(error, match=message):
        heatmaps_to_keypoints(maps, rois)


coordinate = st.one_of(
    st.floats(-50, 300, width=32), st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e30, 0.0])
)


@settings(max_examples=60, deadline=None)
@given(
    roi=st.lists(coordinate, min_size=4, max_size=4),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    values=st.lists(
        st.one_of(st.floats(-30, 30, width=32), st.sampled_from([math.nan, math.inf, 1e37, -1e38])),
        max_size=8,
    ),
)
def test_fuzz(roi, shape, values):
    maps = noise(1, 1, *shape)
    for i, value in enumerate(values):
        maps.view(-1)[(i * 7) % maps.numel()] = value
    rois = torch.tensor([roi])
    result = heatmaps_to_keypoints(maps, rois)[0, 0]
    sides = rois[0, 2:] - rois[0, :2]
    if not (torch.isfinite(rois).all() and torch.isfinite(sides).all() and (maps.abs() <= 1e37).all()):
        assert result.isnan().all()
        return
    sides = sides.clamp(min=1)
    assert (result[:2] >= rois[0, :2]).all()
    assert (result[:2] <= rois[0, :2] + sides * 1.0001).all()
    assert result[3] >= 0
    if sides.max() <= 400:
        scale = maps.abs().max().clamp(min=1)
        assert (result[2] - resampled(maps[0, 0], rois[0]).max()).abs() <= 2e-6 * scale
        # Where rounding of the logits exceeds the range of exp, Detectron2 divides 0 by 0 and asserts.
        if scale <= 30:
            assert_equal_to_detectron2(maps, rois)


@pytest.mark.skipif(not native("cpu"), reason="native ops are not built")
def test_opcheck():
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.heatmaps_to_keypoints.default, (noise(2, 3, 5, 6), person_rois(2))
    )


def test_compile_fullgraph():
    def predict(maps, rois):
        return heatmaps_to_keypoints(maps * 2, rois)[..., [0, 1, 3]]

    maps, rois = heatmaps("peaked", n=2), person_rois(2)
    compiled = torch.compile(predict, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(maps, rois), predict(maps, rois))
