"""RoI pooling from a feature pyramid in one call."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import poolers
from detectron2.structures import Boxes
from torch import Tensor, nn

from mrcnn_plugin.ops import ROIPool, ROIWarp, multi_level_roi_align

from .base_method import base_method

# pooler_type -> (aligned, mode) of multi_level_roi_align. "ROIAlign" is the first release's half-pixel
# misaligned sampling, kept for old checkpoints; the Max types aggregate the samples by maximum, as the
# paper's RoIAlign ablation does (Table 2c).
_ROI_ALIGN = {
    "ROIAlign": (False, "avg"),
    "ROIAlignV2": (True, "avg"),
    "ROIAlignMax": (False, "max"),
    "ROIAlignV2Max": (True, "max"),
}

# What Table 2c compares it with, one module per level. RoIPool has no samples to average: it is a maximum.
_QUANTIZED = {
    "ROIPool": lambda size, scale, _: ROIPool(size, scale),
    "ROIWarp": lambda size, scale, ratio: ROIWarp(size, scale, ratio, mode="avg"),
    "ROIWarpMax": lambda size, scale, ratio: ROIWarp(size, scale, ratio, mode="max"),
}


class ROIPooler(poolers.ROIPooler):
    """Detectron2's ROIPooler, same arguments and results, on `mrcnn_plugin.ops.multi_level_roi_align`.

    Args:
        output_size: int or (height, width) of the pooled region.
        scales: 1 / stride of each feature map, from the finest, each half of the one before.
        sampling_ratio: samples per bin and axis; 0 adapts them to the size of the RoI.
        pooler_type: "ROIAlignV2", "ROIAlign", "ROIAlignV2Max", "ROIAlignMax"; "ROIPool", "ROIWarp",
            "ROIWarpMax"; or "ROIAlignRotated", which is left to Detectron2.
        canonical_box_size, canonical_level: k0 and the box side in pixels that belongs to it, in Eq. (1) of
            the FPN paper (arXiv 1612.03144).
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: tuple[float, ...],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        # Detectron2 checks the arguments; its per-level poolers hold no parameters.
        ours = pooler_type in _ROI_ALIGN or pooler_type in _QUANTIZED
        base_type = "ROIAlignV2" if ours else pooler_type
        super().__init__(output_size, scales, sampling_ratio, base_type, canonical_box_size, canonical_level)
        if pooler_type in _QUANTIZED:
            build = _QUANTIZED[pooler_type]
            levels = [build(self.output_size, scale, sampling_ratio) for scale in scales]
            self.level_poolers = nn.ModuleList(levels)
        self.pooler_type = pooler_type
        self.per_level = pooler_type not in _ROI_ALIGN
        self.aligned, self.mode = _ROI_ALIGN.get(pooler_type, (True, "avg"))
        self.scales = [float(scale) for scale in scales]
        self.sampling_ratio = sampling_ratio

    _pool_each_level = base_method(poolers.ROIPooler.forward, "_pool_each_level")

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """Pools every box from the level that its size belongs to.

        Args:
            x: feature maps (N, C, H_l, W_l), one for each of `scales`.
            box_lists: N Boxes, in pixels of the network's input.

        Returns:
            (K, C, output height, output width), K boxes of all images, in order.
        """
        if self.per_level:
            return self._pool_each_level(x, box_lists)
        if len(x) != len(self.scales):
            raise ValueError(f"x must hold {len(self.scales)} feature maps, one per scale, got {len(x)}")
        if len(box_lists) != x[0].shape[0]:
            images = x[0].shape[0]
            raise ValueError(f"box_lists must hold {images} Boxes, one per image, got {len(box_lists)}")
        if len(box_lists) == 0:
            rois = torch.zeros([0, 5], dtype=torch.float32, device=x[0].device)
        else:
            rois = batch_boxes(box_lists)
        return self.pool(list(x), rois)

    def pool(self, x: list[Tensor], rois: Tensor) -> Tensor:
        """L maps (N, C, H_l, W_l) and boxes (K, 5), image index and xyxy, -> (K, C, height, width)."""
        return self.align(x, rois)

    def align(self, x: list[Tensor], rois: Tensor, levels: Tensor | None = None) -> Tensor:
        """The multi-level op with this pooler's options; `levels` (K,) int64 overrides the level choice."""
        return multi_level_roi_align(
            x,
            rois,
            self.scales,
            self.output_size,
            self.sampling_ratio,
            canonical_box_size=float(self.canonical_box_size),
            canonical_level=self.canonical_level,
            aligned=self.aligned,
            mode=self.mode,
            levels=levels,
        )

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, pooler_type={self.pooler_type!r}, scales={self.scales}"


def batch_boxes(box_lists: list[Boxes]) -> Tensor:
    """N Boxes -> (K, 5): image index and xyxy, with no host sync (Detectron2's repeat_interleave has one)."""
    # Not by len(boxes), which a trace would keep.
    rois: list[Tensor] = []
    for i, boxes in enumerate(box_lists):
        index = torch.full_like(boxes.tensor[:, :1], i)
        rois.append(torch.cat([index, boxes.tensor], dim=1))
    return torch.cat(rois)


def build_pooler(cfg: CfgNode, head: CfgNode, input_shape: dict[str, ShapeSpec]) -> ROIPooler:
    """The pooler that `head` (cfg.MODEL.ROI_BOX_HEAD, ROI_MASK_HEAD or ROI_KEYPOINT_HEAD) describes."""
    return ROIPooler(
        output_size=head.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES),
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        pooler_type=head.POOLER_TYPE,
    )


def head_input_shape(
    cfg: CfgNode, head: CfgNode, input_shape: dict[str, ShapeSpec]
) -> ShapeSpec | dict[str, ShapeSpec]:
    """Shape of what `head`, as for `build_pooler`, sees: RoI features, or the maps if it has no POOLER_TYPE.

    Raises:
        ValueError: the maps that RoI features are pooled from differ in their channels.
    """
    shapes = {name: input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES}
    if not head.POOLER_TYPE:
        return shapes
    channels = {shape.channels for shape in shapes.values()}
    if len(channels) != 1:
        counts = {name: shape.channels for name, shape in shapes.items()}
        raise ValueError(f"MODEL.ROI_HEADS.IN_FEATURES must have equally many channels, got {counts}")
    side = head.POOLER_RESOLUTION
    return ShapeSpec(channels=channels.pop(), height=side, width=side)
