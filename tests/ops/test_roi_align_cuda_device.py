"""RoIAlign on a CUDA device, beyond test_roi_align_cuda.py: streams, graphs, memory, torchvision, sizes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision
from helpers.roi_align_inputs import LAYOUTS, layout_of, make_boxes, pyramid

from mrcnn_plugin.ops import multi_level_roi_align, roi_align

pytestmark = pytest.mark.cuda

DEVICE = "cuda"
SIZES = [(40, 50), (20, 25), (10, 13), (5, 7)]
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
# Boxes of 8 to 150 pixels then reach all four levels.
OPTIONS = {"canonical_box_size": 32, "canonical_level": 3}


def run(features, boxes, scales, device, grad=None, deterministic=True, **options):
    """Output and gradients of the features, moved to the CPU."""
    leaves = [
        feature.to(device).contiguous(memory_format=layout_of(feature)).requires_grad_()
        for feature in features
    ]
    options = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        output = multi_level_roi_align(leaves, boxes.to(device), scales, **options)
        grad = torch.ones_like(output) if grad is None else grad.to(device)
        grads = torch.autograd.grad(output, leaves, grad)
    finally:
        torch.use_deterministic_algorithms(before)
    return output.detach().cpu(), [one.cpu() for one in grads]


@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_equal_to_torchvision(memory_format):
    features = torch.randn(2, 48, 50, 60).contiguous(memory_format=memory_format).to(DEVICE)
    boxes = make_boxes(64).clamp(min=0, max=1000).to(DEVICE)
    for aligned, sampling_ratio in itertools.product([True, False], [0, 2]):
        arguments = (boxes, 7, 0.25, sampling_ratio, aligned)
        expected = torchvision.ops.roi_align(features.contiguous(), *arguments)
        torch.testing.assert_close(roi_align(features, *arguments), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deterministic_over_10_runs(dtype, memory_format, mode):
    features = pyramid(SIZES, dtype, memory_format, channels=40)
    boxes = make_boxes(300)
    grad = torch.randn(300, 40, 7, 7).to(dtype)
    options = {"output_size": 7, "sampling_ratio": 0, "mode": mode, **OPTIONS}
    first, *others = (run(features, boxes, SCALES, DEVICE, grad, True, **options) for _ in range(10))
    for output, grads in others:
        assert torch.equal(output, first[0])
        assert all(torch.equal(one, other) for one, other in zip(grads, first[1]))


def test_deterministic_backward_needs_little_memory():
    features = [torch.randn(2, 256, 100, 160, device=DEVICE).requires_grad_()]
    boxes = make_boxes(256).to(DEVICE)
    output = multi_level_roi_align(features, boxes, [1 / 4], 7, 2)
    grad = torch.randn_like(output)
    torch.use_deterministic_algorithms(True)
    try:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        (result,) = torch.autograd.grad(output, features, grad)
        peak = torch.cuda.max_memory_allocated() - before
    finally:
        torch.use_deterministic_algorithms(False)
    size = result.numel() * result.element_size()
    assert peak - size <= 2 * size


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("deterministic", [False, True])
def test_no_wait_and_graph_capture(deterministic, mode):
    features = [
        f.to(DEVICE).requires_grad_() for f in pyramid(SIZES, torch.float32, torch.channels_last, channels=40)
    ]
    boxes = make_boxes(64).to(DEVICE)
    grad = torch.randn(64, 40, 7, 7, device=DEVICE)
    # With options kept in one place, the captured and the plain call cannot differ.
    options = {"output_size": 7, "sampling_ratio": 0, "mode": mode, **OPTIONS}

    def step():
        output = multi_level_roi_align(features, boxes, SCALES, **options)
        return output, *torch.autograd.grad(output, features, grad)

    torch.use_deterministic_algorithms(deterministic)
    # Kernels of PyTorch that fill new memory in deterministic mode are not what is measured here.
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        step()
        torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        # New boxes in the same memory: another level for nearly every one.
        boxes.copy_(make_boxes(64, seed=5).to(DEVICE))
        graph.replay()
        for got, want in zip(captured, step()):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def test_runs_on_the_current_stream():
    features = torch.zeros(1, 8, 32, 32, device=DEVICE)
    boxes = torch.tensor([[0.0, 2, 2, 20, 20]], device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        features.fill_(3.0)
        output = roi_align(features, boxes, 2)
    stream.synchronize()
    assert torch.equal(output, torch.full_like(output, 3.0))


@pytest.mark.parametrize("max_pool", [False, True])
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_opcheck(memory_format, max_pool):
    features = [
        f.to(DEVICE).requires_grad_() for f in pyramid(SIZES[:2], torch.float32, memory_format, channels=3)
    ]
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.multi_level_roi_align.default,
        (features, make_boxes(6).to(DEVICE), SCALES[:2], 3, 2, 0, 32.0, 3, True, max_pool),
    )


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_more_than_2_31_elements(memory_format, mode):
    channels, height, width = 8, 8192, 32769
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of free GPU memory")
    storage = torch.zeros(channels * height * width, dtype=torch.float16, device=DEVICE)
    assert storage.numel() > 2**31
    if memory_format == torch.channels_last:
        features = storage.view(1, height, width, channels).permute(0, 3, 1, 2)
    else:
        features = storage.view(1, channels, height, width)
    corner = torch.randn(channels, 9, 12, device=DEVICE).half()
    features[0, :, -9:, -12:] = corner
    box = torch.tensor([[0.0, width - 9, height - 7, width - 1, height - 1]], device=DEVICE)
    small = torch.tensor([[0.0, 3, 2, 11, 8]], device=DEVICE)
    small_features = corner[None].clone().requires_grad_()
    features.requires_grad_()
    output = roi_align(features, box, 3, 1.0, 2, True, mode=mode)
    expected = roi_align(small_features, small, 3, 1.0, 2, True, mode=mode)
    torch.testing.assert_close(output, expected)
    grad = torch.randn_like(expected)
    (result,) = torch.autograd.grad(output, features, grad)
    (expected_grad,) = torch.autograd.grad(expected, small_features, grad)
    torch.testing.assert_close(result[:, :, -9:, -12:], expected_grad)
    assert result[:, :, : height - 9].count_nonzero() == 0
