"""Adaptive feature pooling (PANet, section 3.2): every RoI is pooled from every level.

Axes: K RoIs of all images, L levels, C channels, P x Q bins.
"""

from __future__ import annotations

import copy
import functools

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from fvcore.nn import weight_init
from torch import Tensor, nn

from mrcnn_plugin.modeling import ROIPooler


class AdaptiveFeaturePooler(ROIPooler):
    """ROIPooler that pools each box from all levels, in one call of the multi-level op.

    The arguments are ROIPooler's; `pooler_type` is one of its RoIAlign types. The canonical size and level
    have no say, as no level is chosen.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not self.pooler_type.startswith("ROIAlign") or self.pooler_type == "ROIAlignRotated":
            raise ValueError(f"pooler_type must be one of ROIAlign's, got {self.pooler_type!r}")

    def pool(self, x: list[Tensor], rois: Tensor) -> Tensor:
        """L maps (N, C, H_l, W_l) and (K, 5) boxes -> (K, L, C, P, Q); each level's RoIs lie together."""
        num_levels, num_rois = len(x), rois.shape[0]
        # Their lengths follow from rois alone: an exported graph does not compute with the number of RoIs.
        first = rois[:, 0]
        levels = torch.cat([torch.full_like(first, i, dtype=torch.int64) for i in range(num_levels)])
        pooled = self.align(x, torch.cat([rois] * num_levels), levels=levels)
        return pooled.unflatten(0, (num_levels, num_rois)).transpose(0, 1)


class LevelFusion(nn.ModuleList):
    """The layer before the fusion, one for each level, and the element-wise maximum of what they give."""

    @classmethod
    def like(cls, layer: nn.Module, num_levels: int) -> LevelFusion:
        """`num_levels` copies of a convolution or linear layer, each with initial weights of its own."""
        layers = [copy.deepcopy(layer) for _ in range(num_levels)]
        fill = weight_init.c2_xavier_fill if isinstance(layer, nn.Linear) else weight_init.c2_msra_fill
        for one in layers:
            fill(one)
        return cls(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(K, L, ...) to (K, ...): the maximum over l of layer_l(x[:, l])."""
        if x.shape[1] != len(self):
            raise ValueError(
                f"x must have shape (K, {len(self)}, ...), one entry per level, got {tuple(x.shape)}"
            )
        # Not by a stack, which would bring maps that lie channels last into another order.
        return functools.reduce(torch.maximum, (layer(one) for layer, one in zip(self, x.unbind(1))))


@ROI_BOX_HEAD_REGISTRY.register()
class AdaptiveBoxHead(FastRCNNConvFCHead):
    """Box head on the pooled features of all levels, which it fuses after its first layer.

    With two fc layers that is after fc1; with convolutions before the fc layers, after conv1.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_levels: int, **kwargs) -> None:
        """
        Args:
            input_shape: channels, height and width of one level's RoI features.
            num_levels: L, levels that each RoI is pooled from.
            kwargs: `conv_dims`, `fc_dims`, `conv_norm` of FastRCNNConvFCHead.
        """
        super().__init__(input_shape, **kwargs)
        if self.conv_norm_relus:
            self.conv1 = self.conv_norm_relus[0] = LevelFusion.like(self.conv1, num_levels)
        else:
            self.flatten = nn.Flatten(2)
            self.fc1 = self.fcs[0] = LevelFusion.like(self.fc1, num_levels)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        ret = super().from_config(cfg, input_shape)
        return {**ret, "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES)}
