"""An RPN head that reads its map once, and selections that decode only the boxes that are kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import Tensor, nn

from mrcnn_plugin.modeling import BoxPredictor, MaskRCNNRPN

from .substitution import specialize


class JointRPNHead(StandardRPNHead):
    """StandardRPNHead whose two predictors read the hidden map once."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """L maps (N, C, H, W) -> L logits (N, A, H, W) and L deltas (N, A * box_dim, H, W)."""
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        sizes = [self.objectness_logits.out_channels, self.anchor_deltas.out_channels]
        for x in features:
            y = F.linear(self.conv(x).permute(0, 2, 3, 1), self.weight, self.bias)
            for outputs, part in zip((logits, deltas), y.permute(0, 3, 1, 2).split(sizes, dim=1)):
                outputs.append(part)
        return logits, deltas

    @torch.no_grad()
    def join(self) -> None:
        """Makes the joint weight of those of the two predictors."""
        both = (self.objectness_logits, self.anchor_deltas)
        weight = torch.cat([layer.weight.flatten(1) for layer in both])
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.cat([layer.bias for layer in both]), requires_grad=False)


def optimize_proposals(model: nn.Module) -> None:
    """Changes, in place, RPNs and box predictors of Detectron2's own classes: this package's decode only the
    boxes that are kept."""
    module: Any
    for module in list(model.modules()):
        kind = type(module)
        if kind is RPN:
            specialize(module, MaskRCNNRPN)
        elif kind is FastRCNNOutputLayers:
            specialize(module, BoxPredictor)
        elif kind is StandardRPNHead and module.objectness_logits.kernel_size == (1, 1):
            specialize(module, JointRPNHead)
            module.join()
