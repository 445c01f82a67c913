"""A Swin block for maps of any size (Swin Transformer, sections 3.2 and Figure 3b)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mrcnn_plugin.export import ceil_div, computed

try:
    from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
except ImportError as error:
    raise ImportError("the Swin backbone needs timm >= 1.0.31: pip install 'timm>=1.0.31'") from error


class SwinBlock(SwinTransformerBlock):
    """Attention within windows, then an MLP, each a residual; with timm's parameters.

    timm's own block shifts the map before it pads it to whole windows. Where the windows do not divide the
    map, that is another grouping than the one that the official detection models were trained with, which pad
    first. Sizes that are whole windows are the same in both.

    Args:
        dim: channels C.
        num_heads: heads of the attention; they divide C.
        window_size: side of a window, in tokens.
        shifted: windows are shifted by half their side (SW-MSA), as in every second block.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: probability that a residual of an image is dropped in training.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        window_size: int = 7,
        shifted: bool = False,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            dim,
            # Of no consequence with the two options below: windows and masks follow the map itself.
            input_resolution=(window_size, window_size),
            num_heads=num_heads,
            window_size=window_size,
            shift_size=window_size // 2 if shifted else 0,
            mlp_ratio=mlp_ratio,
            drop_path=drop_path,
            always_partition=True,
            dynamic_mask=True,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, H, W, C) to the same shape."""
        x = x + self.drop_path1(self.attend(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Attention of tokens (N, H, W, C) within windows of the padded, shifted map; same shape."""
        height, width = x.shape[1:3]
        padded = [_whole_windows(side, window) for side, window in zip((height, width), self.window_size)]
        x = F.pad(x, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        if any(self.shift_size):
            x = x.roll([-shift for shift in self.shift_size], (1, 2))
        windows = window_partition(x, self.window_size).flatten(1, 2)
        windows = self.attn(windows, mask=self.get_attn_mask(x))
        x = window_reverse(windows.unflatten(1, self.window_size), self.window_size, *padded)
        if any(self.shift_size):
            x = x.roll(self.shift_size, (1, 2))
        return x[:, :height, :width]

    def get_attn_mask(self, x: Tensor) -> Tensor | None:
        """(windows, A, A), A tokens to a window: -100 between tokens that the shift brought together.

        timm's own writes the same numbers region by region into a map, which no graph of any size can.

        Args:
            x: the padded, shifted map (N, H, W, C).
        """
        if not any(self.shift_size):
            return None
        rows, columns = (
            _regions(x.shape[axis + 1], self.window_size[axis], self.shift_size[axis], x) for axis in (0, 1)
        )
        regions = (3 * rows[:, None] + columns)[None, :, :, None]
        regions = window_partition(regions, self.window_size).flatten(1)
        apart = regions[:, None] != regions[:, :, None]
        return apart.to(x.dtype) * -100.0


def _whole_windows(side: int, window: int) -> int:
    """The least multiple of `window` from `side` on."""
    count = ceil_div(side, window)
    return window * (computed(count) if torch.compiler.is_exporting() else count)


def _regions(length: int, window: int, shift: int, like: Tensor) -> Tensor:
    """int64 (length,): which of the three parts of a shifted axis a token is of."""
    index = torch.arange(length, device=like.device)
    return (index >= length - window).long() + (index >= length - shift).long()
