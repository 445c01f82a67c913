"""Semantic branch: fused pyramid levels, from which context for every RoI and a segmentation come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.layers import Conv2d
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F


class FusedSemanticHead(nn.Module):
    """A fully convolutional branch on all levels of a feature pyramid (paper section 3.2).

    Each level goes through a 1x1 convolution and is resized to one of them; their sum goes through 3x3
    convolutions, and two 1x1 convolutions make of it the semantic features and the segmentation.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: int,
        num_classes: int,
        fused_feature: str = "p3",
        num_convs: int = 4,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            in_features: names of the maps.
            in_channels: of each map, and of the semantic features.
            num_classes: of the segmentation, things and stuff.
            fused_feature: the one of `in_features` that gives the others its size.
            num_convs: 3x3 convolutions.
            loss_weight: the beta of section 3.3.
            ignore_value: label of the pixels that do not count.
        """
        super().__init__()
        if fused_feature not in in_features:
            raise ValueError(f"fused_feature must be one of {list(in_features)}, got {fused_feature!r}")
        self.in_features, self.fused_feature = list(in_features), fused_feature
        self.loss_weight, self.ignore_value = loss_weight, ignore_value

        def conv(kernel_size: int) -> Conv2d:
            layer = Conv2d(in_channels, in_channels, kernel_size, padding=kernel_size // 2, activation=F.relu)
            weight_init.c2_msra_fill(layer)
            return layer

        self.lateral = nn.ModuleDict({name: conv(1) for name in in_features})
        self.convs = nn.Sequential(*[conv(3) for _ in range(num_convs)])
        self.embedding = conv(1)
        self.predictor = nn.Conv2d(in_channels, num_classes, kernel_size=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """
        Args:
            features: maps (N, C, H_l, W_l) by name.

        Returns:
            Semantic features (N, C, H, W) and class logits (N, num_classes, H, W), of `fused_feature`'s size.
        """
        size = features[self.fused_feature].shape[-2:]
        fused = 0
        for name, lateral in self.lateral.items():
            # Resized before the convolution, which costs more but is what the authors did.
            x = features[name]
            if name != self.fused_feature:
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            fused = fused + lateral(x)
        x = self.convs(fused)
        return self.embedding(x), self.predictor(x)

    def losses(self, logits: Tensor, sem_seg: Tensor | None) -> dict[str, Tensor]:
        """Cross-entropy at the labelled pixels, the centres of the cells of the map.

        Args:
            logits: (N, num_classes, H, W).
            sem_seg: (N, sH, sW) int64 in [0, num_classes) or `ignore_value`, at the network's input size;
                None: no labels at all.

        Returns:
            {"loss_semantic": scalar}; 0, still connected to the graph, where no pixel is labelled.

        Raises:
            ValueError: the size of `sem_seg` is no multiple of the map's, or a label is out of range.
        """
        if sem_seg is None:
            return {"loss_semantic": logits.sum() * 0.0}
        height, width = logits.shape[-2:]
        if sem_seg.shape[-2] % height or sem_seg.shape[-1] % width:
            raise ValueError(
                f"sem_seg must have a multiple of the map's size {(height, width)}, "
                f"got {tuple(sem_seg.shape[-2:])}"
            )
        rows, columns = sem_seg.shape[-2] // height, sem_seg.shape[-1] // width
        labels = sem_seg[:, rows // 2 :: rows, columns // 2 :: columns]
        counted = labels != self.ignore_value
        # Worth a host sync: on a GPU such labels would bring down the process, without saying why.
        highest = int(torch.where(counted, labels, -1).max())
        if highest >= logits.shape[1]:
            raise ValueError(
                f"sem_seg must hold classes below num_classes={logits.shape[1]} or {self.ignore_value}, "
                f"got {highest}; set semantic_head.num_classes to the data's number of classes"
            )
        total = F.cross_entropy(logits.float(), labels, ignore_index=self.ignore_value, reduction="sum")
        return {"loss_semantic": self.loss_weight * total / counted.sum().clamp(min=1)}
