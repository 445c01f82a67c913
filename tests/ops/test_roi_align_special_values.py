"""NaN and infinite pixels and gradients, and samples exactly on the border: one rule for every kernel."""

import math

import pytest
import torch
import torchvision
from helpers.simd_levels import simd_levels

from mrcnn_plugin.ops import library, reference, roi_align

KERNELS = (*simd_levels(), "reference")


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    """Every instruction set of the native op, then its PyTorch twin."""
    if request.param == "reference":
        monkeypatch.setattr(library, "native", lambda device_type: False)
        twin = reference.roi_align.multi_level_roi_align
        monkeypatch.setattr("mrcnn_plugin.ops.roi_align_fallback.multi_level_roi_align", twin)
    else:
        monkeypatch.setenv("MRCNN_PLUGIN_SIMD", request.param)
    return request.param


def boxes(count, whole):
    """Boxes of 1 to 60 pixels around a map of 24 x 70, some beyond it; `whole`: of whole pixels."""
    generator = torch.Generator().manual_seed(5)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([76.0, 30.0]) - 6
    size = torch.rand(count, 2, generator=generator) * torch.tensor([60.0, 20.0]) + 1
    rois = torch.cat([torch.zeros(count, 1), corner, corner + size], dim=1)
    return rois.round() if whole else rois


def spoilt(channels_last):
    """A map with some NaN and infinite pixels; the same with 0 for them; 1 where they are."""
    generator = torch.Generator().manual_seed(6)
    features = torch.rand(1, 3, 24, 70, generator=generator) + 0.5
    bad = torch.rand(features.shape, generator=generator) < 0.004
    values = torch.tensor([math.nan, math.inf, -math.inf])
    features[bad] = values[torch.arange(int(bad.sum())) % 3]
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    return features, features.nan_to_num(0.0, 0.0, 0.0), bad.float()


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_pixel_spoils_the_bins_that_read_it_with_weight_and_no_other(
    kernel, channels_last, sampling_ratio, whole
):
    features, clean, bad = spoilt(channels_last)
    rois = boxes(60, whole)
    arguments = (rois, (5, 7), 1.0, sampling_ratio, True)
    pooled = roi_align(features, *arguments)
    # The average is linear: what reads such a pixel is what sees a 1 there.
    reads = roi_align(bad.double(), *arguments) > 0
    assert 0.02 < reads.float().mean() < 0.7
    assert torch.equal(~torch.isfinite(pooled), reads)
    torch.testing.assert_close(pooled[~reads], roi_align(clean, *arguments)[~reads])


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_maximum_is_spoilt_by_nan_that_a_sample_reads_with_weight(kernel, channels_last):
    features, clean, bad = spoilt(channels_last)
    features = torch.where(bad > 0, math.nan, clean)
    arguments = (boxes(30, True), (3, 4), 1.0, 2, True)
    reads = roi_align(bad.double(), *arguments, mode="max") > 0
    pooled = roi_align(features, *arguments, mode="max")
    assert torch.equal(pooled.isnan(), reads)
    torch.testing.assert_close(pooled[~reads], roi_align(clean, *arguments, mode="max")[~reads])


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_gradient_spoils_the_pixels_of_its_bin_and_no_other(kernel, channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.rand(1, 3, 24, 70).contiguous(memory_format=memory_format).requires_grad_()
    generator = torch.Generator().manual_seed(7)
    pooled = roi_align(features, boxes(20, False), (5, 7), 1.0, 2, True)
    bad = torch.rand(pooled.shape, generator=generator) < 0.02
    grad = torch.rand(pooled.shape, generator=generator).masked_fill(bad, math.nan)

    def gradient(of):
        return torch.autograd.grad(
            pooled, features, of.contiguous(memory_format=memory_format), retain_graph=True
        )[0]

    if kernel == "reference":
        # Products of dense matrices: there every gradient of a RoI is NaN that shares a row or column.
        assert torch.isfinite(gradient(grad.masked_fill(bad, 0.0))).all()
        return
    spoils = gradient(bad.float()) > 0
    assert torch.equal(gradient(grad).isnan(), spoils)
    torch.testing.assert_close(gradient(grad)[~spoils], gradient(grad.masked_fill(bad, 0.0))[~spoils])


def test_nan_falls_where_torchvisions_falls(kernel):
    """Where no sample lies exactly on a pixel; there torchvision counts neighbours of weight 0, too."""
    features, clean, bad = spoilt(False)
    features = torch.where(bad > 0, math.nan, clean)
    arguments = (boxes(60, False), (5, 7), 1.0, 2, True)
    theirs = torchvision.ops.roi_align(features, *arguments)
    assert torch.equal(roi_align(features, *arguments).isnan(), theirs.isnan())


def sampled(position, size, dtype=torch.float32):
    """The single sample at `position` of a row of `size` pixels with the values 1, 2, 3, ..."""
    row = torch.arange(1.0, size + 1, dtype=dtype).expand(1, 1, 3, size)
    rois = torch.tensor([[0, position - 2, 0, position + 2, 2]], dtype=dtype)
    results = [f(row, rois, 1, 1.0, 1, False).item() for f in (roi_align, torchvision.ops.roi_align)]
    assert results[0] == results[1]
    return results[0]


def test_both_ends_of_the_map_are_inside_as_in_torchvision(kernel):
    """One pixel before the first centre (-1) the first pixel is read, one behind the last (size) the last."""
    below, above = math.nextafter(-1.0, -2.0), math.nextafter(8.0, 9.0)
    assert [sampled(p, 8) for p in (-1.0, -0.5, 0.0, 0.25)] == [1.0, 1.0, 1.0, 1.25]
    assert [sampled(p, 8) for p in (7.0, 7.5, 8.0)] == [8.0, 8.0, 8.0]
    assert [sampled(p, 8) for p in (-1.25, 8.25)] == [0.0, 0.0]
    # The centre of a box that is a rounding step too far out: of float64 boxes both libraries see it.
    for position, inside in ((-1.0, 1.0), (2 * below + 1.0, 0.0), (8.0, 8.0), (2 * above - 8.0, 0.0)):
        assert sampled(position, 8, torch.float64) == inside


def test_ties_of_float64_input_fall_as_in_torchvision(kernel):
    """Boxes of eighths: many samples lie exactly on -1 or on the size of the map."""
    generator = torch.Generator().manual_seed(8)
    features = torch.rand(1, 2, 6, 8, generator=generator, dtype=torch.float64) + 1
    corner = torch.randint(-32, 64, (150, 2), generator=generator) / 8
    extent = torch.randint(4, 64, (150, 2), generator=generator) / 8
    rois = torch.cat([torch.zeros(150, 1), corner, corner + extent], dim=1).double()
    for sampling_ratio in (1, 2):
        for aligned in (False, True):
            arguments = (rois, 2, 1.0, sampling_ratio, aligned)
            expected = torchvision.ops.roi_align(features, *arguments)
            torch.testing.assert_close(roi_align(features, *arguments), expected)


def test_ties_of_float32_input_are_decided_in_float64(kernel):
    """torchvision decides in float32, and so now and then finds such a sample on the other side."""
    generator = torch.Generator().manual_seed(9)
    features = torch.rand(1, 1, 6, 8, generator=generator) + 1
    corner = torch.randint(-40, 80, (400, 2), generator=generator) / 10
    extent = torch.randint(1, 90, (400, 2), generator=generator) / 10
    rois = torch.cat([torch.zeros(400, 1), corner, corner + extent], dim=1)
    ours = roi_align(features, rois, 3, 1.0, 2, False)
    exact = torchvision.ops.roi_align(features.double(), rois.double(), 3, 1.0, 2, False)
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-5)
