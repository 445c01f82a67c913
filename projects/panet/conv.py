"""The 3x3 convolution with a ReLU that PANet's new layers are made of."""

from __future__ import annotations

from detectron2.layers import Conv2d, get_norm
from fvcore.nn import weight_init
from torch.nn import functional as F


def relu_conv(in_channels: int, out_channels: int, norm: str, stride: int = 1) -> Conv2d:
    """3x3 convolution, `norm` as Detectron2's layers name it ("": none, but a bias), and a ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv
