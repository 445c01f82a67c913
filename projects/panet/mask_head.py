"""Mask head of PANet: fusion of all levels' features, and of a fully connected view (section 3.3).

Axes: K RoIs, L levels, C channels, H x W of the pooled features, M = 2H side of a mask.
"""

from __future__ import annotations

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from torch import Tensor, nn

from mrcnn_plugin.modeling import FCNMaskHead
from mrcnn_plugin.modeling.roi_linear import RoILinear

from .adaptive_pooling import LevelFusion
from .conv import relu_conv

# The layer whose output both branches share.
_SHARED = "mask_fcn3"


class FullyConnectedMask(nn.Module):
    """The short path of Figure 4: conv4_fc, conv5_fc with half the channels, one fc layer.

    It knows where in the RoI a pixel lies, which a convolution does not, and all its weights learn from all
    classes.
    """

    def __init__(self, input_shape: ShapeSpec, mask_size: int, conv_norm: str = "") -> None:
        """
        Args:
            input_shape: channels, height and width of the features.
            mask_size: M.
            conv_norm: normalization of the convolutions, as Detectron2's layers name it.
        """
        super().__init__()
        channels, half = input_shape.channels, input_shape.channels // 2
        self.mask_size = mask_size
        self.conv4_fc = relu_conv(channels, channels, conv_norm)
        self.conv5_fc = relu_conv(channels, half, conv_norm)
        shape = ShapeSpec(channels=half, height=input_shape.height, width=input_shape.width)
        self.fc = RoILinear(shape, mask_size**2)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(K, C, H, W) to (K, 1, M, M): class-agnostic logits."""
        x = self.conv5_fc(self.conv4_fc(x))
        return self.fc(x).view(-1, 1, self.mask_size, self.mask_size)


@ROI_MASK_HEAD_REGISTRY.register()
class PANetMaskHead(FCNMaskHead):
    """FCNMaskHead with PANet's two additions, each of which can be left out."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: list[int],
        conv_norm: str = "",
        num_levels: int | None = None,
        fully_connected_fusion: bool = False,
        **kwargs,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of one level's RoI features.
            conv_dims: widths of the convolutions, at least three, and of the deconvolution.
            num_levels: L, levels that each RoI is pooled from, fused after mask_fcn1; None: the pooler
                chooses one.
            fully_connected_fusion: add the class-agnostic logits of `FullyConnectedMask`, which branches off
                after mask_fcn3, to those of each class.
            kwargs: as FCNMaskHead.
        """
        super().__init__(input_shape, conv_dims=conv_dims, conv_norm=conv_norm, **kwargs)
        if num_levels is not None:
            self.mask_fcn1 = self.conv_norm_relus[0] = LevelFusion.like(self.mask_fcn1, num_levels)
        self.fully_connected = None
        if fully_connected_fusion:
            if len(conv_dims) < 4:
                raise ValueError(
                    "conv_dims must hold three convolutions and the deconvolution for "
                    f"fully_connected_fusion, got {list(conv_dims)}"
                )
            shape = ShapeSpec(channels=conv_dims[2], height=input_shape.height, width=input_shape.width)
            self.fully_connected = FullyConnectedMask(shape, 2 * input_shape.height, conv_norm)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        ret = super().from_config(cfg, input_shape)
        num_levels = len(cfg.MODEL.ROI_HEADS.IN_FEATURES)
        return {**ret, "num_levels": num_levels, "fully_connected_fusion": True}

    def layers(self, x: Tensor) -> Tensor:
        """(K, C, H, W), or (K, L, C, H, W) with `num_levels`, to logits (K, num_classes, M, M)."""
        shared, features = self._branches(x)
        return self._fuse(self.predictor(features), shared)

    def features(self, x: Tensor) -> Tensor:
        return self._branches(x)[1]

    def masks_of(self, x: Tensor, classes: list[Tensor]) -> Tensor:
        shared, features = self._branches(x)
        return self._fuse(self.predict(features, classes), shared)

    def _fuse(self, logits: Tensor, shared: Tensor) -> Tensor:
        return logits if self.fully_connected is None else logits + self.fully_connected(shared)

    def _branches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output of the last shared layer, and what the predictor sees."""
        shared = x
        for name, layer in self.named_children():
            if name not in ("predictor", "fully_connected"):
                x = layer(x)
            if name == _SHARED:
                shared = x
        return shared, x
