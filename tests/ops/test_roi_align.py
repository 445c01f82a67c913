"""Values and gradients of RoIAlign: hand-computed, against a float64 loop, against torchvision."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchvision
from helpers.roi_align_oracle import Setting, error_against_oracle, max_is_tied, random_setting
from helpers.simd_levels import simd_levels

from mrcnn_plugin.ops import ROIAlign, library, multi_level_roi_align, roi_align, roi_align_fallback
from mrcnn_plugin.ops.reference import roi_align as reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.usefixtures("kernels")
def test_hand_computed_average_and_maximum():
    feature = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None]
    box = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
    # aligned: one bin from -0.5 to 1.5, samples at 0 and 1 on both axes, thus the four pixels themselves.
    assert roi_align(feature, box, 1, 1.0, 2, aligned=True).item() == 1.5
    assert roi_align(feature, box, 1, 1.0, 2, aligned=True, mode="max").item() == 3.0
    # not aligned: samples at 0.5 and 1.5 (clamped to 1): 0.5 + 1 on rows and 0.25 + 0.5 on columns, halved.
    assert roi_align(feature, box, 1, 1.0, 2).item() == 2.25
    assert roi_align(feature, box, (1, 2), 1.0, 1).flatten().tolist() == [2.5, 3.0]


@pytest.mark.usefixtures("kernels")
def test_samples_outside_count_as_zero():
    feature = torch.full((1, 1, 4, 4), 2.0)
    box = torch.tensor([[0.0, -4.0, 0.0, 4.0, 4.0]])
    # Columns at -3, -1, 1, 3: the first lies outside [-1, 4].
    assert roi_align(feature, box, (1, 1), 1.0, 4).item() == pytest.approx(2.0 * 3 / 4)
    assert roi_align(-feature, box, (1, 1), 1.0, 4, mode="max").item() == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(4))
def test_random_settings_against_oracle(dtype, seed):
    rng = np.random.default_rng(seed)
    errors = [error_against_oracle(random_setting(rng), dtype, i) for i in range(10)]
    assert max(errors) <= 1


def test_few_maxima_are_tied():
    """What the comparison leaves out is little; of a constant map it is all."""
    rng = np.random.default_rng(5)
    settings = [random_setting(rng) for _ in range(30)]
    tied = [max_is_tied(setting, setting.features(torch.float64).numpy()) for setting in settings]
    assert sum(t.sum() for t in tied) < 0.2 * sum(t.size for t in tied)
    box = np.array([[0, 0, 0, 4, 4]], dtype=np.float32)
    setting = Setting((1, 1, 4, 4), box, 1.0, (2, 2), 2, True, "max", False)
    assert max_is_tied(setting, np.ones((1, 1, 4, 4))).all()
    assert not max_is_tied(setting, np.arange(16.0).reshape(1, 1, 4, 4)).any()


@pytest.mark.parametrize("level", simd_levels()[:-1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_of_lesser_levels_against_oracle(level, dtype, monkeypatch):
    monkeypatch.setenv("MRCNN_PLUGIN_SIMD", level)
    rng = np.random.default_rng(11)
    assert max(error_against_oracle(random_setting(rng), dtype, i) for i in range(8)) <= 1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(6000, 2), (2, 6000)])
def test_bins_of_thousands_of_samples(size, memory_format):
    """A bin over the whole of a map far longer than wide; its rows outnumber the columns."""
    height, width = size
    ramp = torch.arange(float(height * width), dtype=torch.float64).view(1, 1, height, width)
    features = torch.cat([ramp, 1 - ramp], dim=1).contiguous(memory_format=memory_format).requires_grad_()
    box = torch.tensor([[0.0, 0.0, 0.0, width, height]], dtype=torch.float64)
    # Aligned and one sample a pixel: the samples are the pixels, in one bin all of them.
    output = roi_align(features, box, 1, 1.0, 0, aligned=True)
    mean = (height * width - 1) / 2
    assert output.flatten().tolist() == pytest.approx([mean, 1 - mean])
    (grad,) = torch.autograd.grad(output.sum(), features)
    torch.testing.assert_close(grad, torch.full_like(grad, 1 / (height * width)))


@pytest.mark.slow
def test_2000_random_settings_against_oracle():
    rng = np.random.default_rng(1234)
    errors = [
        error_against_oracle(random_setting(rng), DTYPES[i % 3 if i % 4 == 0 else 0], i) for i in range(2000)
    ]
    assert max(errors) <= 1


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_reference_twin_against_oracle(mode, monkeypatch):
    monkeypatch.setattr(library, "native", lambda device_type: False)
    monkeypatch.setattr(roi_align_fallback, "multi_level_roi_align", reference.multi_level_roi_align)
    rng = np.random.default_rng(7)
    for i in range(12):
        setting = random_setting(rng)
        setting.mode = mode
        assert error_against_oracle(setting, torch.float32, i) <= 1


def test_fallback_against_oracle(monkeypatch):
    monkeypatch.setattr(library, "native", lambda device_type: False)
    rng = np.random.default_rng(8)
    for i in range(12):
        setting = random_setting(rng)
        setting.mode = "avg"
        assert error_against_oracle(setting, torch.float32, i) <= 1


def test_without_native_kernels_torchvision_averages_and_the_reference_does_the_rest(monkeypatch):
    def called(*arguments):
        raise NotImplementedError("the reference")

    monkeypatch.setattr(library, "native", lambda device_type: False)
    monkeypatch.setattr(reference, "multi_level_roi_align", called)
    features, box = torch.rand(1, 1, 8, 8), torch.tensor([[0.0, 1, 1, 6, 5]])
    expected = torchvision.ops.roi_align(features, box, 2)
    assert torch.equal(roi_align(features, box, 2), expected)
    for image, boxes, mode in (
        (features, box, "max"),
        (features, torch.tensor([[0.0, 0, 0, 1e9, 5]]), "avg"),
        (features, torch.tensor([[0.0, 5, 0, 1, 5]]), "avg"),
        (features.double(), box, "avg"),
    ):
        with pytest.raises(NotImplementedError, match="the reference"):
            roi_align(image, boxes, 2, mode=mode)


GRID = list(
    itertools.product([True, False], [-1, 0, 1, 2, 3], [(7, 7), (2, 5), (14, 14), (1, 33)], [False, True])
)


def boxes_for(features: torch.Tensor, scale: float, count: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    batch, _, height, width = features.shape
    extent = torch.tensor([width, height]) / scale
    start = (torch.rand(count, 2, generator=generator) * 1.4 - 0.2) * extent
    size = torch.rand(count, 2, generator=generator) ** 2 * extent
    size[:3] *= torch.tensor([[0.0], [-0.2], [5.0]])
    index = torch.randint(batch, (count, 1), generator=generator)
    return torch.cat([index, start, start + size], dim=1).to(features.dtype)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 21, 30, 45), (1, 3, 5, 3), (3, 1, 1, 1), (1, 130, 9, 70)])
def test_equal_to_torchvision(dtype, shape):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator, dtype=dtype)
    # torchvision computes sample positions in the dtype of the boxes.
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    boxes = boxes_for(features, 0.25)
    for aligned, sampling_ratio, output_size, channels_last in GRID:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        mine, theirs = (features.clone(memory_format=memory_format).requires_grad_() for _ in range(2))
        arguments = (output_size, 0.25, sampling_ratio, aligned)
        output = roi_align(mine, boxes, *arguments)
        expected = torchvision.ops.roi_align(theirs, boxes, *arguments)
        grad = torch.randn(output.shape, generator=generator, dtype=dtype)
        output.backward(grad)
        expected.backward(grad)
        torch.testing.assert_close(output, expected, **tolerance)
        torch.testing.assert_close(mine.grad, theirs.grad, **tolerance)


@pytest.mark.usefixtures("kernels")
def test_list_of_boxes_and_module_equal_torchvision():
    features = torch.randn(2, 8, 20, 20)
    boxes = [
        torch.tensor([[0.0, 1.0, 30.0, 25.0]]),
        torch.tensor([[5.0, 5.0, 70.0, 60.0], [1.0, 2.0, 3.0, 4.0]]),
    ]
    expected = torchvision.ops.roi_align(features, boxes, 7, 0.25, 2, True)
    torch.testing.assert_close(roi_align(features, boxes, 7, 0.25, 2, True), expected)
    pooler = ROIAlign(7, 0.25, 2)
    torch.testing.assert_close(pooler(features, boxes), expected)
    assert "sampling_ratio=2" in repr(pooler)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("channels_last", [False, True])
def test_pyramid_equals_one_level_at_a_time(channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    sizes = [(64, 80), (32, 40), (16, 20), (8, 10)]
    scales = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    features = [
        torch.randn(2, 24, *size).contiguous(memory_format=memory_format).requires_grad_() for size in sizes
    ]
    boxes = boxes_for(features[0].detach(), 1 / 4, 60)
    boxes[::3, 3:] = boxes[::3, 1:3] + (boxes[::3, 3:] - boxes[::3, 1:3]) * 4
    # Boxes of 10 to 900 pixels reach every level of a pyramid whose canonical box is small.
    options = {"canonical_box_size": 64, "canonical_level": 3}
    output = multi_level_roi_align(features, boxes, scales, 7, 0, **options)
    levels = reference.assign_levels(boxes[:, 1:], scales, 64, 3)
    assert levels.unique().tolist() == [0, 1, 2, 3]
    expected = torch.stack(
        [
            roi_align(features[lv], box[None], 7, scales[lv], 0, True)[0]
            for lv, box in zip(levels.tolist(), boxes)
        ]
    )
    torch.testing.assert_close(output, expected)
    weights = torch.randn(output.shape)
    grads = torch.autograd.grad((output * weights).sum(), features)
    expected_grads = torch.autograd.grad((expected * weights).sum(), features)
    for grad, expected_grad in zip(grads, expected_grads):
        torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("channels_last", [False, True])
def test_backward_gives_the_same_bits_for_any_number_of_threads(channels_last):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(2, 40, 50, 60).contiguous(memory_format=memory_format).requires_grad_()
    boxes = boxes_for(features.detach(), 1.0, 64)
    grad = torch.randn(64, 40, 7, 7)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            (result,) = torch.autograd.grad(roi_align(features, boxes, 7), features, grad)
            results.append(result)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], result) for result in results)
