"""Convolutions of a training: values and gradients of the layers they replace, and the way back to them."""

import copy

import pytest
import torch
from detectron2.config import instantiate
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock
from helpers.training import synthetic_inputs, train_step
from torch import nn

from mrcnn_plugin import model_zoo, optimize
from mrcnn_plugin.ops import has_matrix_tiles
from mrcnn_plugin.train import convolution
from mrcnn_plugin.train.convolution import TrainedConv2d, fuse_convolutions

LAST = torch.channels_last


def with_random_norms(module):
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            for buffer in norm.buffers():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return module


def conv(norm=None, activation=None, kernel=3, stride=1, channels=(64, 80), **kwargs):
    torch.manual_seed(1)
    made = None if norm is None else norm(channels[1])
    padding = kernel // 2
    module = Conv2d(
        *channels, kernel, stride, padding, norm=made, activation=activation, bias=norm is None, **kwargs
    )
    return with_random_norms(module)


def run(module, *inputs, **kwargs):
    """Result, and the gradients of inputs and parameters."""
    inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    y = module(*inputs, **kwargs)
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), [*inputs, *trained])]


def assert_equal(results, expected):
    for result, want in zip(results, expected, strict=True):
        # Absolute where a sum over all pixels cancels.
        assert (result - want).norm() <= 1e-5 * want.norm() + 3e-5


def fused(module):
    module = copy.deepcopy(module).to(memory_format=LAST)
    fuse_convolutions(module)
    return module


@pytest.fixture(
    params=[
        "winograd",
        pytest.param(
            "matrix tiles",
            marks=pytest.mark.skipif(not has_matrix_tiles(), reason="this processor has no matrix tiles"),
        ),
    ]
)
def fast_kernels(request, monkeypatch):
    """Fast kernels for small maps: by Winograd's scheme, and on matrix tiles wherever those can."""
    tiles = request.param == "matrix tiles"
    monkeypatch.setattr(convolution, "_LEAST_TILES", 1)
    monkeypatch.setattr(convolution, "has_matrix_tiles", lambda: tiles)
    monkeypatch.setattr(convolution, "_LEAST_SPLIT_CHANNELS", 1)


@pytest.mark.usefixtures("fast_kernels")
@pytest.mark.parametrize("norm", [None, FrozenBatchNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.SiLU()])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_one_convolution(norm, activation, kernel, stride):
    plain = nn.Sequential(conv(norm, activation, kernel, stride)).double()
    fast = fused(plain.float())
    x = torch.randn(2, 64, 9, 10).contiguous(memory_format=LAST)
    assert isinstance(fast[0], TrainedConv2d) == (norm is not nn.BatchNorm2d or (kernel, stride) == (3, 1))
    assert_equal(run(fast, x), run(copy.deepcopy(plain).double(), x.double()))
    assert fast.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.usefixtures("fast_kernels")
def test_torchs_own_convolutions_change_where_winograd_helps():
    plain = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 1))
    fast = fused(plain)
    assert [isinstance(one, TrainedConv2d) for one in fast] == [True, False]
    x = torch.randn(1, 64, 8, 8)
    assert_equal(run(fast, x), run(copy.deepcopy(plain).double(), x.double()))


@pytest.mark.usefixtures("fast_kernels")
@pytest.mark.parametrize("norm", [None, FrozenBatchNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize("activation", [None, nn.ReLU()])
@pytest.mark.parametrize("relu", [False, True])
def test_the_residual_comes_behind_norm_and_activation(norm, activation, relu):
    plain = conv(norm, activation)
    fast = fused(nn.Sequential(plain))[0]
    x, residual = torch.randn(1, 64, 8, 8), torch.randn(1, 80, 8, 8)

    class Separately(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = copy.deepcopy(plain).double()

        def forward(self, x, residual):
            y = self.conv(x) + residual
            return y.relu() if relu else y

    assert_equal(run(fast, x, residual, relu=relu), run(Separately(), x.double(), residual.double()))


@pytest.mark.parametrize(
    "block",
    [
        BasicStem(3, 64, norm="FrozenBN"),
        BasicBlock(64, 64, norm="FrozenBN"),
        BottleneckBlock(64, 128, bottleneck_channels=64, stride=2, norm="FrozenBN"),
        BottleneckBlock(128, 128, bottleneck_channels=64, num_groups=2, norm="FrozenBN"),
    ],
    ids=["stem", "basic", "projection", "groups"],
)
def test_blocks(block):
    # Of these numbers none is so close to 0 that rounding moves it to the other side of a ReLU.
    torch.manual_seed(0)
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    block = with_random_norms(block)
    fast = fused(block)
    assert type(fast) is not type(block)
    x = torch.randn(2, block.conv1.in_channels, 33, 34)
    assert_equal(run(fast, x), run(copy.deepcopy(block).double(), x.double()))
    # In another precision and under autocast the same arithmetic, in separate passes.
    assert_equal(run(fast.double(), x.double()), run(copy.deepcopy(block).double(), x.double()))
    with torch.autocast("cpu", torch.bfloat16):
        result = fast.float()(x)
    assert result.dtype == torch.bfloat16
    assert (result.float() - block(x)).norm() < 0.02 * block(x).norm()


def test_frozen_weights_keep_nothing_for_the_backward_pass():
    block = fused(with_random_norms(BottleneckBlock(64, 64, bottleneck_channels=64, norm="FrozenBN")))
    block.requires_grad_(False)
    result = block(torch.randn(1, 64, 16, 16))
    assert not result.requires_grad
    assert result.grad_fn is None


def test_empty_batches():
    fast = fused(nn.Sequential(conv(None, nn.ReLU())))
    x = torch.zeros(0, 64, 14, 14, requires_grad=True)
    y = fast(x)
    assert y.shape == (0, 80, 14, 14)
    y.sum().backward()
    assert not fast[0].weight.grad.any()


def frozen_model():
    config = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py").model
    config.backbone.bottom_up.stages.norm = config.backbone.bottom_up.stem.norm = "FrozenBN"
    torch.manual_seed(0)
    model = instantiate(config)
    for name, buffer in model.named_buffers():
        if name.endswith("norm.weight"):
            buffer *= 0.5
    return model


def test_a_step_and_what_is_evaluated():
    """Losses and gradients are the same within rounding; an optimized copy is made of the plain layers."""
    model = frozen_model()
    inputs = synthetic_inputs([(128, 160)], num_classes=3)
    fast = fused(model)
    expected, step = train_step(model, inputs), train_step(fast, inputs)
    torch.testing.assert_close(step.losses, expected.losses, rtol=1e-4, atol=1e-5)
    assert step.gradients.keys() == expected.gradients.keys()
    for name, gradient in step.gradients.items():
        error = (gradient - expected.gradients[name]).norm()
        assert error <= 5e-3 * expected.gradients[name].norm() + 1e-6, name
    # Gradients lie as their parameters do: the optimizer copies none.
    for name, parameter in fast.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.stride() == parameter.stride() or 1 in parameter.shape[1:], name
    images = torch.randn(1, 3, 128, 160)
    results, plain = optimize(fast).backbone(images), optimize(model).backbone(images)
    for name, result in results.items():
        assert torch.equal(result, plain[name])
    assert not any(isinstance(m, TrainedConv2d) for m in optimize(fast).modules())
    assert any(isinstance(m, TrainedConv2d) for m in fast.modules())
