"""Detectron2's deformable convolutions on torchvision's operator, where detectron2._C is missing."""

import pytest
import torch
from detectron2.layers import DeformConv, ModulatedDeformConv
from detectron2.modeling import build_model
from helpers.small_yaml_models import small_config
from helpers.training import synthetic_inputs, train_step

IMAGE = torch.arange(9.0).reshape(1, 1, 3, 3)


def ones(layer):
    torch.nn.init.ones_(layer.weight)
    return layer


def shifted(y, x, kernels=1):
    """Offsets (1, 2 * kernels, 3, 3) that move every sample by y rows and x columns."""
    return torch.tensor([y, x]).repeat(kernels)[None, :, None, None].expand(1, -1, 3, 3).contiguous()


def test_offsets_are_rows_then_columns_and_samples_outside_are_zero():
    """A 1x1 kernel reads the pixel itself: half a row further down lies the mean with the row below.

    Rows are 0 1 2, 3 4 5, 6 7 8; below the last row there are zeros. A quarter of a column to the right adds
    0.25 within the image; the last column keeps three quarters of its value.
    """
    layer = ones(DeformConv(1, 1, 1))
    down = [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5], [3.0, 3.5, 4.0]]
    torch.testing.assert_close(layer(IMAGE, shifted(0.5, 0.0))[0, 0], torch.tensor(down))
    right = [[0.25, 1.25, 1.5], [3.25, 4.25, 3.75], [6.25, 7.25, 6.0]]
    torch.testing.assert_close(layer(IMAGE, shifted(0.0, 0.25))[0, 0], torch.tensor(right))


def test_a_modulated_sample_is_multiplied_and_the_bias_added():
    layer = ones(ModulatedDeformConv(1, 1, 1))
    torch.nn.init.constant_(layer.bias, 10.0)
    mask = torch.full((1, 1, 3, 3), 0.5)
    expected = 10 + 0.5 * torch.tensor([[4.0, 5.0, 0.0], [7.0, 8.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(layer(IMAGE, shifted(1.0, 1.0), mask)[0, 0], expected)


@pytest.mark.parametrize(("groups", "stride", "dilation"), [(1, 1, 1), (2, 2, 1), (2, 1, 2)])
def test_without_offsets_it_is_the_convolution(groups, stride, dilation):
    torch.manual_seed(0)
    image, kwargs = torch.randn(2, 4, 7, 8), {"stride": stride, "padding": 1, "dilation": dilation}
    layer = DeformConv(4, 6, 3, groups=groups, **kwargs)
    expected = torch.nn.functional.conv2d(image, layer.weight, groups=groups, **kwargs)
    offset = torch.zeros(2, 18, *expected.shape[2:])
    torch.testing.assert_close(layer(image, offset), expected)
    modulated = ModulatedDeformConv(4, 6, 3, groups=groups, bias=False, **kwargs)
    modulated.weight = layer.weight
    torch.testing.assert_close(modulated(image, offset, torch.ones_like(offset[:, ::2])), expected)


def test_each_deformable_group_has_offsets_of_its_own():
    """The first channel is read one row below, the second one column to the right; both are added."""
    layer = ones(DeformConv(2, 1, 1, deformable_groups=2))
    offset = torch.cat([shifted(1.0, 0.0), shifted(0.0, 1.0)], dim=1)
    below = torch.tensor([[3.0, 4, 5], [6, 7, 8], [0, 0, 0]])
    right = torch.tensor([[1.0, 2, 0], [4, 5, 0], [7, 8, 0]])
    torch.testing.assert_close(layer(IMAGE.repeat(1, 2, 1, 1), offset)[0, 0], below + right)


def test_gradients_reach_input_offsets_mask_and_weight():
    torch.manual_seed(0)
    layer = ModulatedDeformConv(2, 2, 3, padding=1).double()
    inputs = (
        torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True),
        # Away from whole pixels, where bilinear interpolation has a kink.
        (torch.rand(1, 18, 4, 4, dtype=torch.float64) * 0.4 + 0.3).requires_grad_(),
        torch.rand(1, 9, 4, 4, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(layer, inputs)
    layer(*inputs).square().sum().backward()
    assert layer.weight.grad.abs().min() > 0


def test_wrong_sizes_are_named():
    layer = DeformConv(2, 2, 3, padding=1)
    with pytest.raises(ValueError, match="offset must have 18 channels for deformable_groups=1, got 9"):
        layer(torch.zeros(1, 2, 4, 4), torch.zeros(1, 9, 4, 4))
    with pytest.raises(ValueError, match="input must have 2 channels for groups=1, got 3"):
        layer(torch.zeros(1, 3, 4, 4), torch.zeros(1, 18, 4, 4))


@pytest.mark.parametrize("modulated", [False, True])
def test_a_model_with_deform_on_per_stage_trains_a_step(modulated):
    torch.manual_seed(0)
    cfg = small_config("mask")
    cfg.MODEL.RESNETS.update(DEPTH=50, RES2_OUT_CHANNELS=32, STEM_OUT_CHANNELS=8, WIDTH_PER_GROUP=8)
    cfg.MODEL.RESNETS.update(DEFORM_ON_PER_STAGE=[False, False, True, True], DEFORM_MODULATED=modulated)
    model = build_model(cfg)
    kind = ModulatedDeformConv if modulated else DeformConv
    assert sum(isinstance(module, kind) for module in model.modules()) == 6 + 3
    step = train_step(model, synthetic_inputs([(64, 64)], num_classes=3))
    assert all(torch.isfinite(loss) for loss in step.losses.values())
    offsets = [name for name in step.gradients if "conv2_offset" in name]
    assert len(offsets) == 2 * 9
    assert all(step.gradients[name].abs().sum() > 0 for name in offsets if "res4" in name)
