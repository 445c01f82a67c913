"""The MaskIoU head: how good is a predicted mask, from the RoI's features and the mask itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from fvcore.nn import weight_init
from torch import Tensor, nn

from mrcnn_plugin.modeling.roi_linear import RoILinear


class MaskIoUHead(nn.Module):
    """Regresses the IoU of a predicted mask with its object, for each class (paper section 3.3, Figure 3).

    The mask is max-pooled to the size of the RoI features and joins them as one more channel; then 3x3
    convolutions, the last of stride 2, fully connected layers, and one output per class.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: Sequence[int] = (256, 256, 256, 256),
        fc_dims: Sequence[int] = (1024, 1024),
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the RoI features, those of the mask head.
            num_classes: foreground classes.
            conv_dims: channels of the convolutions, at least one.
            fc_dims: widths of the fully connected layers before the last.
            loss_weight: multiplier of the loss.
        """
        super().__init__()
        if not conv_dims:
            raise ValueError("conv_dims must hold the channels of at least one convolution, got []")
        self.num_classes, self.loss_weight = num_classes, loss_weight
        self._size = (input_shape.height, input_shape.width)
        self._convs, self._fcs = [], []
        channels = input_shape.channels + 1
        for i, conv_dim in enumerate(conv_dims, 1):
            stride = 2 if i == len(conv_dims) else 1
            conv = Conv2d(channels, conv_dim, 3, stride=stride, padding=1, activation=F.relu)
            weight_init.c2_msra_fill(conv)
            self._convs.append(conv)
            self.add_module(f"maskiou_fcn{i}", conv)
            channels = conv_dim
        height, width = ((side + 1) // 2 for side in self._size)
        shape = ShapeSpec(channels=channels, height=height, width=width)
        *hidden, self.maskiou = _linear_layers(shape, [*fc_dims, num_classes])
        for i, fc in enumerate(hidden, 1):
            weight_init.c2_xavier_fill(fc)
            self._fcs.append(fc)
            self.add_module(f"maskiou_fc{i}", fc)
        nn.init.normal_(self.maskiou.weight, std=0.01)
        nn.init.zeros_(self.maskiou.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Reads MODEL.ROI_MASK_IOU_HEAD where there is one; `add_mask_scoring_config` describes its keys."""
        head = cfg.MODEL.get("ROI_MASK_IOU_HEAD", {})
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dims": [head.get("CONV_DIM", 256)] * head.get("NUM_CONV", 4),
            "fc_dims": [head.get("FC_DIM", 1024)] * head.get("NUM_FC", 2),
            "loss_weight": head.get("LOSS_WEIGHT", 1.0),
        }

    def forward(self, x: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
        """The predicted IoU of each mask.

        Args:
            x: (K, C, H, W) RoI features.
            masks: (K, 1, M, M) predicted probabilities of the class in question.
            classes: int64 (K,) in [0, num_classes): that class.

        Returns:
            (K,) float32; not clamped to [0, 1].
        """
        masks = F.adaptive_max_pool2d(masks.to(x.dtype), self._size)
        # As (K, H, W, C): one channel is of either memory format, and would not leave the features theirs.
        x = torch.cat([x.movedim(1, -1), masks.movedim(1, -1)], dim=-1).movedim(-1, 1)
        for conv in self._convs:
            x = conv(x)
        for fc in self._fcs:
            x = fc(x).relu()
        return self.maskiou(x).float()[torch.arange(x.shape[0], device=x.device), classes]


def _linear_layers(input_shape: ShapeSpec, widths: Sequence[int]) -> list[nn.Linear]:
    """Linear layers of these widths in a row, the first on RoI features."""
    first = RoILinear(input_shape, widths[0])
    return [first, *(nn.Linear(*pair) for pair in itertools.pairwise(widths))]


def add_mask_scoring_config(cfg: CfgNode) -> None:
    """Adds, in place, the MaskIoU head's keys to a Detectron2 config; needed only to set them."""
    cfg.MODEL.ROI_MASK_IOU_HEAD = CfgNode(
        {"CONV_DIM": 256, "NUM_CONV": 4, "FC_DIM": 1024, "NUM_FC": 2, "LOSS_WEIGHT": 1.0}
    )
