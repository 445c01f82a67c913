"""The point head: a small MLP that is run at single points."""

from __future__ import annotations

import torch
from detectron2.projects.point_rend.point_head import POINT_HEAD_REGISTRY, StandardPointHead
from torch import Tensor

from mrcnn_plugin.modeling.mask_head import class_logits


@POINT_HEAD_REGISTRY.register()
class OneClassPointHead(StandardPointHead):
    """Detectron2's point head, same parameters, which predicts only the class in question of each RoI.

    The other K - 1 outputs at each point are never looked at: neither by the loss nor by the subdivision,
    which would have to interpolate and hold K masks of the full resolution for each RoI.
    """

    def forward(self, fine_features: Tensor, coarse_features: Tensor, classes: Tensor) -> Tensor:
        """Logits of one class at P points of each of R RoIs.

        Args:
            fine_features: (R, C, P), of the image's features at the points.
            coarse_features: (R, K, P), of the coarse prediction at the points: the logits of every class.
            classes: int64 (R,) in [0, K).

        Returns:
            (R, 1, P) float32.
        """
        x = torch.cat([fine_features, coarse_features], dim=1)
        for layer in self.fc_layers:
            x = layer(x).relu()
            if self.coarse_pred_each_layer:
                x = torch.cat([x, coarse_features], dim=1)
        if self.predictor.out_channels == 1:
            return self.predictor(x).float()
        return class_logits(x, self.predictor, classes).float()
