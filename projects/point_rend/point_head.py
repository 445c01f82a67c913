"""The point head: a small MLP that is run at single points."""

from __future__ import annotations

import torch
from detectron2.layers import ShapeSpec
from fvcore.nn import weight_init
from torch import Tensor, nn

from mrcnn_plugin.modeling.mask_head import class_logits


class OneClassPointHead(nn.Module):
    """Detectron2's StandardPointHead, same parameters, which predicts only the class in question of each RoI.

    The other outputs at each point are never looked at: neither by the loss nor by the subdivision, which
    would have to interpolate and hold one mask of the full resolution per class for each RoI.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        fc_dim: int = 256,
        num_fc: int = 3,
        coarse_pred_each_layer: bool = True,
        class_agnostic: bool = False,
    ) -> None:
        """
        Args:
            input_shape: channels of the image's features at a point.
            num_classes: classes of the coarse prediction, and of this one unless `class_agnostic`.
            fc_dim, num_fc: width and number of the hidden layers.
            coarse_pred_each_layer: whether each layer sees the coarse prediction, or only the first.
            class_agnostic: predict one mask for all classes.
        """
        super().__init__()
        self.coarse_pred_each_layer = coarse_pred_each_layer
        channels = input_shape.channels + num_classes
        self.fc_layers = []
        for i in range(num_fc):
            layer = nn.Conv1d(channels, fc_dim, kernel_size=1)
            weight_init.c2_msra_fill(layer)
            self.add_module(f"fc{i + 1}", layer)
            self.fc_layers.append(layer)
            channels = fc_dim + (num_classes if coarse_pred_each_layer else 0)
        self.predictor = nn.Conv1d(channels, 1 if class_agnostic else num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, fine_features: Tensor, coarse_features: Tensor, classes: Tensor) -> Tensor:
        """Logits of one class at P points of each of K RoIs.

        Args:
            fine_features: (K, C, P), of the image's features at the points.
            coarse_features: (K, num_classes, P), of the coarse prediction at the points: the logits of every
                class.
            classes: int64 (K,) in [0, num_classes).

        Returns:
            (K, 1, P) float32.
        """
        x = torch.cat([fine_features, coarse_features], dim=1)
        for layer in self.fc_layers:
            x = layer(x).relu()
            if self.coarse_pred_each_layer:
                x = torch.cat([x, coarse_features], dim=1)
        if self.predictor.out_channels == 1:
            return self.predictor(x).float()
        return class_logits(x, self.predictor, classes).float()
