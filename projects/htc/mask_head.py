"""Mask head of one stage of a Hybrid Task Cascade, which hears what the head before it has found."""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from fvcore.nn import weight_init
from torch import Tensor
from torch.nn import functional as F

from mrcnn_plugin.modeling import FCNMaskHead


@ROI_MASK_HEAD_REGISTRY.register()
class HTCMaskHead(FCNMaskHead):
    """FCNMaskHead in two parts: the 3x3 convolutions (`refine`), and what predicts from them (`forward`).

    Between the two the next stage's head listens: a 1x1 convolution of these features is added to its own
    input (paper section 3.1, mask information flow).
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, conv_dims: list[int], info_flow: bool = False, **kwargs
    ) -> None:
        """
        Args:
            input_shape: channels of the RoI features.
            conv_dims: widths of the 3x3 convolutions and, last, of the deconvolution.
            info_flow: this head listens to another one, which is of the same `conv_dims`.
            kwargs: as FCNMaskHead.
        """
        super().__init__(input_shape, conv_dims=conv_dims, **kwargs)
        self.info_flow = info_flow
        if info_flow:
            if len(conv_dims) < 2:
                raise ValueError(f"conv_dims must hold a 3x3 convolution to listen to, got {conv_dims}")
            self.flow = Conv2d(conv_dims[-2], input_shape.channels, kernel_size=1, activation=F.relu)
            weight_init.c2_msra_fill(self.flow)

    def refine(self, x: Tensor, previous: Tensor | None = None) -> Tensor:
        """The stage's mask features m_t of its RoI features, from which `forward` predicts.

        Args:
            x: (K, C, H, W) RoI features.
            previous: (K, C', H, W), what the head before returned for the same RoIs; None: there is none.

        Returns:
            (K, C', H, W).
        """
        if previous is not None:
            x = x + self.flow(previous)
        for layer in self.conv_norm_relus:
            x = layer(x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """(K, C', H, W) of `refine` -> (K, C'', 2H, 2W): what the predictor sees."""
        return self.deconv_relu(self.deconv(x))
