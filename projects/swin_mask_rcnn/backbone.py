"""Swin Transformer as a backbone for FPN, of timm's parts and with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

from .block import SwinBlock

# After the block, which says what to do where timm is missing.
from timm.layers import PatchEmbed  # isort: skip
from timm.models.swin_transformer import PatchMerging  # isort: skip


class SwinStage(nn.Module):
    """A stage of the paper's Figure 3a: 2 x 2 tokens are merged into one, except in the first; then blocks.

    Args:
        dim: channels of its output.
        merge: halve the map and double the channels first.
        num_heads, window_size, mlp_ratio: of `SwinBlock`.
        drop_path: of each block, whose number it gives.
    """

    def __init__(
        self,
        dim: int,
        *,
        merge: bool,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        drop_path: Sequence[float],
    ) -> None:
        super().__init__()
        self.downsample = PatchMerging(dim // 2, dim) if merge else nn.Identity()
        self.blocks = nn.Sequential(
            *(
                SwinBlock(
                    dim,
                    num_heads,
                    window_size=window_size,
                    shifted=index % 2 == 1,
                    mlp_ratio=mlp_ratio,
                    drop_path=rate,
                )
                for index, rate in enumerate(drop_path)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, H, W, C) to (N, H, W, dim), or (N, ceil(H / 2), ceil(W / 2), dim) where it merges."""
        return self.blocks(self.downsample(x))


class SwinTransformer(Backbone):
    """Swin Transformer (arXiv 2103.14030, section 3) whose stages are the input of a feature pyramid.

    Images may have any size: patches, merging and windows pad with zeros on the right and at the bottom, as
    in the official detection models. Each stage that is given out is normalised by a LayerNorm of its own,
    `norm0` to `norm3`, as there.

    Args:
        embed_dim: channels C of the first stage; each further one has twice as many.
        depths: blocks of each stage.
        num_heads: heads of the attention in each stage; they divide its channels.
        window_size: side of a window, in tokens.
        mlp_ratio: hidden channels of the blocks' MLPs over their channels.
        drop_path_rate: probability to drop a residual in the last block; it grows linearly up to that
            from 0 in the first (stochastic depth). In training only.
        out_features: of "stage1" to "stage4", those to give out.
        freeze_at: 0 trains all; 1 freezes the patch embedding, 2 the first stage too, and so on. What is
            frozen stays in evaluation mode. The norms of the outputs are never frozen.

    Raises:
        ValueError: one number of stages in `depths` and another in `num_heads`, an unknown name in
            `out_features`, `freeze_at` beyond the last stage.
    """

    def __init__(
        self,
        *,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.2,
        out_features: Sequence[str] = ("stage1", "stage2", "stage3", "stage4"),
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        _check(depths, num_heads, out_features, freeze_at)
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=4,
            embed_dim=embed_dim,
            norm_layer=nn.LayerNorm,
            output_fmt="NHWC",
            dynamic_img_pad=True,
        )
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.layers = nn.ModuleList(
            SwinStage(
                embed_dim << index,
                merge=index > 0,
                num_heads=num_heads[index],
                window_size=window_size,
                mlp_ratio=mlp_ratio,
                drop_path=rates[sum(depths[:index]) : sum(depths[: index + 1])],
            )
            for index in range(len(depths))
        )
        self.apply(_init_weights)
        self.freeze_at = freeze_at
        self._out_features = list(out_features)
        self._out_feature_channels = {}
        self._out_feature_strides = {}
        for name in out_features:
            index = _index(name)
            self.add_module(f"norm{index}", nn.LayerNorm(embed_dim << index))
            self._out_feature_channels[name] = embed_dim << index
            self._out_feature_strides[name] = 4 << index
        for module in self.frozen():
            module.requires_grad_(False)

    def frozen(self) -> list[nn.Module]:
        """What `freeze_at` freezes."""
        return [self.patch_embed, *self.layers][: self.freeze_at]

    def train(self, mode: bool = True) -> SwinTransformer:
        """As of any module, but for what is frozen."""
        super().train(mode)
        for module in self.frozen():
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, 3, H, W) to maps (N, C, ceil(H / stride), ceil(W / stride)) by name.

        The maps lie in memory as channels_last.
        """
        x = self.patch_embed(x)
        outputs = {}
        for index, layer in enumerate(self.layers):
            x = layer(x)
            name = f"stage{index + 1}"
            if name in self._out_features:
                outputs[name] = getattr(self, f"norm{index}")(x).permute(0, 3, 1, 2)
        return outputs


def _index(name: str) -> int:
    return int(name.removeprefix("stage")) - 1


def _check(
    depths: Sequence[int], num_heads: Sequence[int], out_features: Sequence[str], freeze_at: int
) -> None:
    if len(depths) != len(num_heads):
        raise ValueError(
            f"depths and num_heads must have a number for each stage, got {len(depths)} and {len(num_heads)}"
        )
    stages = [f"stage{index + 1}" for index in range(len(depths))]
    unknown = [name for name in out_features if name not in stages]
    if unknown or not out_features:
        raise ValueError(f"out_features must be some of {stages}, got {list(out_features)}")
    if not 0 <= freeze_at <= len(depths) + 1:
        raise ValueError(f"freeze_at must be from 0 to {len(depths) + 1}, got {freeze_at}")


def _init_weights(module: nn.Module) -> None:
    """As the official code: linear layers of deviation 0.02, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
