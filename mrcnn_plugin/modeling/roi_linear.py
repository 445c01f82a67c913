"""A linear layer on RoI features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn


class RoILinear(nn.Linear):
    """nn.Linear on all features of a RoI; weight and bias as of a linear layer on `x.flatten(1)`.

    Args:
        input_shape: channels C, height H and width W of the RoI features.
        out_features: of each RoI.
    """

    def __init__(self, input_shape: ShapeSpec, out_features: int) -> None:
        super().__init__(input_shape.channels * input_shape.height * input_shape.width, out_features)
        self.channels = input_shape.channels
        self.channels_last = False

    @torch.no_grad()
    def use_channels_last(self) -> None:
        """From now on the weight's columns are in the order H, W, C, so that features of that memory format
        are not copied. It then no longer is the weight that checkpoints hold."""
        weight = self.weight.unflatten(1, (self.channels, -1)).transpose(1, 2).flatten(1)
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=self.weight.requires_grad)
        self.channels_last = True

    def forward(self, x: Tensor) -> Tensor:
        """(K, C, H, W) -> (K, out_features)."""
        if self.channels_last:
            x = x.permute(0, 2, 3, 1)
        return F.linear(x.flatten(1), self.weight, self.bias)
