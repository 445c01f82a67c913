"""Kernels of training: the same values and gradients as the layers' own, and whole copies of a model."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import FrozenBatchNorm2d
from helpers.training import synthetic_inputs, train_step
from torch import nn

from mrcnn_plugin import model_zoo
from mrcnn_plugin.config import load_config
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.train.kernels import depthwise_in_float32, fuse_frozen_norms


def frozen_norm(cls=FrozenBatchNorm2d, **kwargs):
    norm = cls(6, **kwargs)
    generator = torch.Generator().manual_seed(0)
    for buffer in norm.buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return norm


def run(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    y.float().square().sum().backward()
    return y, x.grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_frozen_norm(layout):
    x = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)
    plain = nn.Sequential(frozen_norm())
    fused = copy.deepcopy(plain)
    fuse_frozen_norms(fused)
    torch.testing.assert_close(run(fused, x), run(plain, x))
    assert fused(x).is_contiguous(memory_format=layout)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    assert isinstance(fused[0], FrozenBatchNorm2d)
    bfloat16 = run(fused, x.bfloat16())
    assert all(one.dtype == torch.bfloat16 for one in bfloat16)
    torch.testing.assert_close([one.float() for one in bfloat16], list(run(plain, x)), rtol=0.03, atol=0.05)


def test_timms_norm_keeps_its_activation_and_the_type():
    layers = pytest.importorskip("timm.layers")
    x = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    plain = nn.Sequential(frozen_norm(layers.FrozenBatchNormAct2d, act_layer=nn.ReLU6))
    fused = copy.deepcopy(plain)
    fuse_frozen_norms(fused)
    torch.testing.assert_close(run(fused, x), run(plain, x))
    assert fused(x.bfloat16()).dtype == torch.bfloat16


def test_depthwise_convolutions_are_left_out_of_autocast():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1, groups=2))
    depthwise_in_float32(model)
    depthwise_in_float32(model)
    # A copy computes with its own weights.
    other = copy.deepcopy(model)
    nn.init.zeros_(other[1].weight)
    nn.init.zeros_(other[1].bias)
    x = torch.randn(1, 4, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = model[0](x)
        second = model[1](first)
        assert (first.dtype, second.dtype) == (torch.bfloat16, torch.float32)
        assert model[2](second).dtype == torch.bfloat16
        assert not other[1](first).any()
    expected = nn.functional.conv2d(first.float(), model[1].weight, model[1].bias, groups=8)
    torch.testing.assert_close(second, expected)


def test_a_step_in_channels_last_with_fused_norms():
    """Losses and gradients of a whole model are the same within rounding."""
    config = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py").model
    config.backbone.bottom_up.stages.norm = config.backbone.bottom_up.stem.norm = "FrozenBN"
    torch.manual_seed(0)
    model = instantiate(config).double()
    for name, buffer in model.named_buffers():
        if name.endswith("norm.weight"):
            buffer *= 0.5
    model.float()
    inputs = synthetic_inputs([(64, 96)], num_classes=4)
    expected = train_step(model, inputs)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    fuse_frozen_norms(other)
    step = train_step(other, inputs)
    torch.testing.assert_close(step.losses, expected.losses, rtol=1e-4, atol=1e-5)
    for name, gradient in step.gradients.items():
        error = (gradient - expected.gradients[name]).norm()
        assert error <= 5e-3 * expected.gradients[name].norm() + 1e-6, name


@pytest.mark.parametrize("value", ["auto", "channels_last", "contiguous", "nhwc"])
def test_the_key_of_both_kinds_of_config(tmp_path, value):
    yaml = tmp_path / "config.yaml"
    yaml.write_text("VERSION: 2\n")
    lazy = "Shapes/mask_rcnn_R_18_FPN.py"
    for file, override in (
        (lazy, f"train.memory_format={value}"),
        (str(yaml), f"TRAIN.MEMORY_FORMAT={value}"),
    ):
        if value == "nhwc":
            key = override.partition("=")[0]
            with pytest.raises(
                ConfigError, match=rf"{key} must be 'auto', 'contiguous' or 'channels_last', got 'nhwc'"
            ):
                load_config(file, [override])
        else:
            config = load_config(file, [override])
            assert config.memory_format == value
