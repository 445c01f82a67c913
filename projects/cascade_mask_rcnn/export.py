"""Cascade Mask R-CNN as a function of tensors, for `mrcnn_plugin.export`."""

from __future__ import annotations

import torch
from torch import Tensor

from mrcnn_plugin.export import CascadeHeads, check_mask_head, check_pooler, heads_graph, mask_probabilities

from .roi_heads import CascadeMaskRCNNROIHeads


class CascadeMaskHeads(CascadeHeads):
    """Mask heads of one or several stages, whose mean is the mask."""

    heads: CascadeMaskRCNNROIHeads

    def check_masks(self) -> None:
        for index, head in enumerate(self.heads.mask_heads):
            check_mask_head(head, f"roi_heads.mask_head.{index}")
        check_pooler(self.heads.mask_pooler, "roi_heads.mask_pooler")

    def masks(self, features: dict[str, Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        mask_heads = self.heads.mask_heads
        inputs = self.heads.mask_head_inputs(self.mask_features(features, boxes), len(mask_heads))
        masks = [mask_probabilities(head, x, classes) for head, x in zip(mask_heads, inputs)]
        return torch.stack(masks).mean(dim=0) if len(masks) > 1 else masks[0]


heads_graph.register(CascadeMaskRCNNROIHeads, CascadeMaskHeads)
