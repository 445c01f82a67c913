"""ResNet and FPN with their additions and activations inside the convolutions."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from detectron2.modeling.backbone import FPN, BasicStem
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn

from .convolution import FusedConv2d, fuse
from .substitution import specialize


def _residual(block: Any, x: Tensor) -> tuple[Tensor, bool]:
    """What is added to a block's last convolution, and whether nobody else reads it."""
    if block.shortcut is None:
        return x, block.owns_input
    return block.shortcut(x), True


class FusedBasicBlock(BasicBlock):
    """Detectron2's BasicBlock in two passes, and one for a projection."""

    owns_input: bool

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x)
        return self.conv2(out, *_residual(self, x))


class FusedBottleneckBlock(BottleneckBlock):
    """Detectron2's BottleneckBlock in three passes, and one for a projection."""

    owns_input: bool

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x))
        return self.conv3(out, *_residual(self, x))


class FusedStem(BasicStem):
    """Detectron2's BasicStem."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


_BLOCKS = {
    BasicBlock: (FusedBasicBlock, ("conv1", "conv2")),
    BottleneckBlock: (FusedBottleneckBlock, ("conv1", "conv2", "conv3")),
}


def _fuse_block(block: Any, owns_input: bool) -> None:
    fused, names = _BLOCKS[type(block)]
    convs = [getattr(block, name) for name in names]
    if all(isinstance(conv, FusedConv2d) for conv in (*convs, block.shortcut or convs[0])):
        for conv in convs:
            fuse(conv, F.relu)
        block.owns_input = owns_input
        specialize(block, fused)


class FusedFPN(FPN):
    """Detectron2's FPN whose lateral convolutions add the coarser level as they write."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.bottom_up(x)
        merged = self.lateral_convs[0](maps[self.in_features[-1]])
        results = [self.output_convs[0](merged)]
        for index in range(1, len(self.in_features)):
            finer = F.interpolate(merged, scale_factor=2.0, mode="nearest")
            merged = self.lateral_convs[index](maps[self.in_features[-index - 1]], finer, True)
            if self._fuse_type == "avg":
                merged /= 2
            results.insert(0, self.output_convs[index](merged))
        if self.top_block is not None:
            name = self.top_block.in_feature
            top = maps[name] if name in maps else results[self._out_features.index(name)]
            results.extend(self.top_block(top))
        return dict(zip(self._out_features, results))


def _fuse_fpn(fpn: FPN) -> None:
    if not all(isinstance(conv, FusedConv2d) for conv in (*fpn.lateral_convs, *fpn.output_convs)):
        return
    specialize(fpn, FusedFPN)


def fuse_backbones(model: nn.Module) -> None:
    """Changes, in place, every ResNet block, stem and FPN whose convolutions are FusedConv2d."""
    for module in list(model.modules()):
        if isinstance(module, nn.Sequential):
            for index, block in enumerate(module):
                if type(block) in _BLOCKS:
                    # The first block's input may be a map that the backbone gives out.
                    _fuse_block(block, owns_input=index > 0)
        elif type(module) is BasicStem and isinstance(module.conv1, FusedConv2d):
            fuse(module.conv1, F.relu)
            specialize(module, FusedStem)
        elif isinstance(module, FPN):
            _fuse_fpn(module)
