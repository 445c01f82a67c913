"""Stages of deeper ResNets and ResNeXts, beyond what Detectron2's `ResNet.make_default_stages` offers."""

from __future__ import annotations

from detectron2.modeling.backbone import BottleneckBlock, ResNet
from detectron2.modeling.backbone.resnet import CNNBlockBase

# Bottleneck blocks of res2 to res5 (ResNet, arXiv 1512.03385, Table 1).
_NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def resnet_stages(
    depth: int,
    *,
    norm: str,
    stride_in_1x1: bool,
    num_groups: int = 1,
    width_per_group: int = 64,
    res5_dilation: int = 1,
) -> list[list[CNNBlockBase]]:
    """The four stages of a bottleneck ResNet or ResNeXt, for the `stages` of Detectron2's ResNet.

    Args:
        depth: 50, 101 or 152.
        norm: normalization, as Detectron2's layers name it.
        stride_in_1x1: a block's stride is in its first 1x1 convolution (MSRA's weights), not in its 3x3.
        num_groups, width_per_group: ResNeXt's cardinality and bottleneck width: 32, 8 is "32x8d".
        res5_dilation: 2 keeps res5 at stride 16 with dilated convolutions (the DC5 models); 1 is stride 32.
    """
    if depth not in _NUM_BLOCKS:
        raise ValueError(f"depth must be one of {sorted(_NUM_BLOCKS)}, got {depth}")
    if res5_dilation not in (1, 2):
        raise ValueError(f"res5_dilation must be 1 or 2, got {res5_dilation}")
    stages = []
    in_channels = 64
    for index, num_blocks in enumerate(_NUM_BLOCKS[depth]):
        dilation = res5_dilation if index == 3 else 1
        stride = 1 if index == 0 or dilation == 2 else 2
        out_channels = 256 * 2**index
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                num_blocks,
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                bottleneck_channels=num_groups * width_per_group * 2**index,
                num_groups=num_groups,
                norm=norm,
                stride_in_1x1=stride_in_1x1,
                dilation=dilation,
            )
        )
        in_channels = out_channels
    return stages
