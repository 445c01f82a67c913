"""RoI pooling of one image's boxes by the poolers of a model."""

from __future__ import annotations

from typing import Any

from detectron2.modeling import poolers
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import ROIPooler
from mrcnn_plugin.ops import multi_level_roi_align

from .boxes import with_image_index

# Of Detectron2's own pooler, whether the sampling is aligned.
_ALIGNED = {"ROIAlign": False, "ROIAlignV2": True}


def check_pooler(pooler: nn.Module, where: str) -> None:
    """Refuses what cannot be exported.

    Args:
        pooler: of a model.
        where: its name there, for the message.

    Raises:
        ConfigError: neither of Detectron2's RoIAlign types nor of this package's.
    """
    if isinstance(pooler, ROIPooler):
        kind = pooler.pooler_type
        fits = kind.startswith("ROIAlign") and kind != "ROIAlignRotated"
    else:
        kind = _kind(pooler)
        fits = kind in _ALIGNED
    if not fits:
        raise ConfigError(
            f"{where}: a model that pools by {kind} cannot be exported; one that pools by RoIAlign can"
        )


def _kind(pooler: Any) -> str:
    """The pooler_type of Detectron2's ROIPooler, which does not keep it."""
    if type(pooler) is not poolers.ROIPooler:
        return type(pooler).__name__
    level = pooler.level_poolers[0]
    if isinstance(level, poolers.ROIAlign):
        return "ROIAlignV2" if level.aligned else "ROIAlign"
    return type(level).__name__


def pool(pooler: Any, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """What `pooler` makes of one image's boxes.

    Args:
        pooler: one that `check_pooler` takes.
        maps: (1, C, H_l, W_l), finest first.
        boxes: (K, 4) float32 xyxy in pixels of the network's input.

    Returns:
        (K, C, height, width), or what else a subclass of ROIPooler pools.
    """
    rois = with_image_index(boxes)
    if isinstance(pooler, ROIPooler):
        return pooler.pool(maps, rois)
    levels = pooler.level_poolers
    return multi_level_roi_align(
        maps,
        rois,
        [level.spatial_scale for level in levels],
        pooler.output_size,
        levels[0].sampling_ratio,
        canonical_box_size=pooler.canonical_box_size,
        canonical_level=pooler.canonical_level,
        aligned=levels[0].aligned,
    )
