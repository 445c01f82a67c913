"""Bottom-up path augmentation (PANet, section 3.1): a short way from the finest level to the coarsest."""

from __future__ import annotations

from detectron2.modeling.backbone import FPN, Backbone
from torch import Tensor, nn

from .conv import relu_conv


class PathAggregationFPN(FPN):
    """FPN whose levels P2..P5 are followed by N2..N5: N2 = P2, N(l+1) = conv(P(l+1) + down(N(l))).

    `down` is a 3x3 convolution of stride 2, `conv` one of stride 1; each is followed by a ReLU. The
    constructor's arguments and the parameters that exist in FPN are FPN's, so its weights load. Level l is
    returned under FPN's name, "p<l>", and the top block (P6) works on the augmented map.

    Parameters: `path_down<l>` and `path_output<l>` for each level l but the finest.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
    ) -> None:
        """
        Args:
            bottom_up: network that yields `in_features`.
            in_features: its maps, finest first, of strides that double.
            out_channels: channels of every level.
            norm: normalization of the lateral, output and path convolutions.
            top_block: makes coarser levels from one of these; has `in_feature` and `num_levels`.
            fuse_type: "sum" or "avg", how the top-down path joins the lateral maps.
        """
        super().__init__(bottom_up, in_features, out_channels, norm, top_block, fuse_type)
        self._path_levels = list(self.output_shape())[: len(in_features)]
        for name in self._path_levels[1:]:
            for part, stride in (("down", 2), ("output", 1)):
                conv = relu_conv(out_channels, out_channels, norm, stride)
                self.add_module(f"path_{part}{name[1:]}", conv)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) image -> {"p<l>": (N, C, H / 2^l, W / 2^l)}, finest first."""
        levels = super().forward(x)
        finer = levels[self._path_levels[0]]
        for name in self._path_levels[1:]:
            down = getattr(self, f"path_down{name[1:]}")(finer)
            finer = getattr(self, f"path_output{name[1:]}")(levels[name] + down)
            levels[name] = finer
        # FPN's own top block saw the map before the path.
        if self.top_block is not None and self.top_block.in_feature in self._path_levels:
            coarser = list(levels)[len(self._path_levels) :]
            levels.update(zip(coarser, self.top_block(levels[self.top_block.in_feature])))
        return levels
