"""RoIAlign under PyTorch's machinery: gradcheck, opcheck, compile, export, autocast, double backward."""

from __future__ import annotations

import pytest
import torch

from mrcnn_plugin.ops import multi_level_roi_align, roi_align

SCALES = [1 / 4, 1 / 8]
OPTIONS = {"canonical_box_size": 32, "canonical_level": 2}


def pyramid(dtype=torch.float64, channels_last=False, requires_grad=True):
    generator = torch.Generator().manual_seed(0)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return [
        torch.randn(2, 3, *size, generator=generator, dtype=dtype)
        .contiguous(memory_format=memory_format)
        .requires_grad_(requires_grad)
        for size in [(12, 10), (6, 5)]
    ]


def rois(dtype=torch.float32):
    return torch.tensor(
        [[0, 1, 2, 20, 30], [1, 5.3, 4.1, 12.7, 11.9], [1, -9, -9, 60, 70], [0, 30, 30, 90, 33]], dtype=dtype
    )


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_gradcheck(mode, channels_last, sampling_ratio):
    def function(*features):
        return multi_level_roi_align(
            features, rois(torch.float64), SCALES, (3, 2), sampling_ratio, mode=mode, **OPTIONS
        )

    assert torch.autograd.gradcheck(function, pyramid(channels_last=channels_last))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("max_pool", [False, True])
def test_opcheck(channels_last, max_pool):
    features = pyramid(torch.float32, channels_last)
    tail = (0, 32.0, 2, True, max_pool)
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.multi_level_roi_align.default, (features, rois(), SCALES, 3, 2, *tail)
    )
    features = pyramid(torch.float32, channels_last, requires_grad=False)
    torch.library.opcheck(
        torch.ops.mrcnn_plugin.multi_level_roi_align_backward.default,
        (torch.randn(4, 3, 3, 2), features, rois(), SCALES, *tail, False),
    )


@pytest.mark.usefixtures("kernels")
def test_double_backward_raises():
    features = pyramid()
    output = multi_level_roi_align(features, rois(), SCALES, 3, 2, **OPTIONS)
    (grad,) = torch.autograd.grad(output.square().sum(), features[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"double backwards? (is|on roi_align) not supported"):
        grad.sum().backward()


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_compile_fullgraph(mode):
    def function(features, boxes):
        output = multi_level_roi_align(features, boxes, SCALES, 3, 2, mode=mode, **OPTIONS)
        return output + roi_align(features[0], boxes, 3, 0.25)

    features = pyramid(torch.float32)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    output, expected = compiled(features, rois()), function(features, rois())
    torch.testing.assert_close(output, expected)
    grads = torch.autograd.grad(output.sum(), features)
    for grad, want in zip(grads, torch.autograd.grad(expected.sum(), features)):
        torch.testing.assert_close(grad, want)


def test_export_with_any_number_of_boxes():
    class Pooler(torch.nn.Module):
        def forward(self, features, boxes):
            return multi_level_roi_align(features, boxes, SCALES, 3, 2, **OPTIONS)

    features = pyramid(torch.float32, requires_grad=False)
    shapes = {"features": [None, None], "boxes": {0: torch.export.Dim("K", min=0, max=1000)}}
    program = torch.export.export(Pooler(), (features, rois()), dynamic_shapes=shapes)
    for boxes in (rois(), rois()[:3], rois()[:0]):
        torch.testing.assert_close(program.module()(features, boxes), Pooler()(features, boxes))


@pytest.mark.usefixtures("kernels")
def test_autocast_keeps_the_dtype_of_the_features():
    features = pyramid(torch.bfloat16)
    # In bfloat16 this box would be rounded to whole pixels.
    boxes = torch.tensor([[0.0, 3.3, 2.7, 25.4, 36.1]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = roi_align(features[0], boxes, 3, 0.25, 2, True)
        wide = roi_align(features[0].float(), boxes, 3, 0.25, 2, True)
    assert output.dtype == torch.bfloat16
    assert wide.dtype == torch.float32
    torch.testing.assert_close(output, wide.bfloat16())
    output.sum().backward()
    assert features[0].grad.dtype == torch.bfloat16


@pytest.mark.usefixtures("kernels")
def test_boxes_get_no_gradient_as_in_torchvision():
    boxes = rois().requires_grad_()
    features = pyramid(torch.float32)
    multi_level_roi_align(features, boxes, SCALES, 3, 2).sum().backward()
    assert boxes.grad is None
