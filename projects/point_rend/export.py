"""PointRend as a function of tensors, for `mrcnn_plugin.export`.

Axes: K RoIs, P points, C channels, S side of a mask.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.projects.point_rend.point_features import (
    generate_regular_grid_point_coords,
    get_point_coords_wrt_image,
    get_uncertain_point_coords_on_grid,
    point_sample,
)
from torch import Tensor

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.export import StandardHeads, heads_graph

from .mask_head import PointMaskHead, uncertainty
from .roi_heads import PointMaskROIHeads


class PointHeads(StandardHeads):
    """Heads whose mask head samples the image's features itself."""

    heads: PointMaskROIHeads

    def check_masks(self) -> None:
        head = self.heads.mask_head
        if not isinstance(head, PointMaskHead):
            raise ConfigError(
                f"roi_heads.mask_head: a {type(head).__name__} cannot be exported, as it is no PointMaskHead"
            )

    def masks(self, features: dict[str, Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        head: PointMaskHead = self.heads.mask_head
        count, side = boxes.shape[0], head.roi_pooler_size
        points = self._grid(boxes, side)
        x = self._sample(features, head.roi_pooler_in_features, boxes, points)
        coarse = head.coarse_head(x.view(count, x.shape[1], side, side))
        side = head.mask_point_subdivision_init_resolution
        logits = self._logits_at(features, boxes, coarse, classes, self._grid(boxes, side))
        masks = logits.view(count, 1, side, side)
        for _ in range(head.mask_point_subdivision_steps):
            side *= 2
            masks = F.interpolate(masks, scale_factor=2, mode="bilinear", align_corners=False)
            index, points = get_uncertain_point_coords_on_grid(
                uncertainty(masks), head.mask_point_subdivision_num_points
            )
            logits = self._logits_at(features, boxes, coarse, classes, points)
            masks = masks.flatten(2).scatter(2, index[:, None], logits).view(count, 1, side, side)
        return masks[:, 0].sigmoid()

    def _grid(self, boxes: Tensor, side: int) -> Tensor:
        """(K, side * side, 2) points in [0, 1] of the boxes."""
        return generate_regular_grid_point_coords(boxes.shape[0], side, boxes.device)

    def _logits_at(
        self, features: dict[str, Tensor], boxes: Tensor, coarse: Tensor, classes: Tensor, points: Tensor
    ) -> Tensor:
        """(K, 1, P) logits at points (K, P, 2) in [0, 1] of the boxes."""
        head: PointMaskHead = self.heads.mask_head
        fine = self._sample(features, head.mask_point_in_features, boxes, points)
        return head.point_head(fine, point_sample(coarse, points, align_corners=False), classes)

    def _sample(self, features: dict[str, Tensor], names: list[str], boxes: Tensor, points: Tensor) -> Tensor:
        """(K, C, P) features of some maps, joined, at points (K, P, 2) in [0, 1] of the boxes."""
        in_image = get_point_coords_wrt_image(boxes, points)
        sampled = []
        for name in names:
            height, width = features[name].shape[-2:]
            scale = self.heads.mask_head._feature_scales[name]
            x, y = in_image[..., 0] * scale / width, in_image[..., 1] * scale / height
            # One image, its points as a map of K x P.
            sampled.append(
                point_sample(features[name], torch.stack([x, y], dim=-1)[None], align_corners=False)
            )
        return torch.cat(sampled, dim=1)[0].transpose(0, 1)


heads_graph.register(PointMaskROIHeads, PointHeads)
