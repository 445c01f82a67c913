"""Ground-truth polygons drawn into the mask grids of RoIs: the targets of a mask head."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mrcnn_plugin.ops import library, reference, scripting
from mrcnn_plugin.ops.library import native

MAX_MASK_SIZE = 4096


class PackedPolygons(NamedTuple):
    """The polygons of K instances in three flat tensors, for callers that pack once and draw often."""

    coords: Tensor  # [L] float64: x, y, x, y, ... in image pixels, polygon after polygon
    polygon_offsets: Tensor  # [P + 1] int64: where in coords each polygon starts, and the end
    instance_offsets: Tensor  # [K + 1] int64: which polygon each instance starts with, and the end

    def to(self, device: torch.device | str) -> PackedPolygons:
        return PackedPolygons(*(tensor.to(device, non_blocking=True) for tensor in self))


def pack_polygons(polygons: Sequence[Sequence[Any]]) -> PackedPolygons:
    """Packs COCO polygons: per instance a sequence of polygons, each a flat x, y, x, y, ... sequence.

    A polygon is a list, an array or a tensor of finite numbers, at least 3 points; an instance without
    polygons has an empty mask.

    Raises:
        ValueError: a polygon that is not flat, has fewer than 3 points or half a point, or is not finite.
    """
    flat = [
        polygon if isinstance(polygon, np.ndarray) else _to_array(polygon)
        for instance in polygons
        for polygon in instance
    ]
    polygon_offsets = _offsets([len(polygon) if polygon.ndim == 1 else -1 for polygon in flat])
    lengths = np.diff(polygon_offsets)
    bad = np.flatnonzero((lengths < 6) | (lengths % 2 == 1))
    if bad.size:
        raise ValueError(
            "a polygon must be a flat sequence x, y, x, y, ... of at least 3 points, got shape "
            f"{flat[bad[0]].shape} for polygon {_place(polygons, int(bad[0]))}; drop or repair it"
        )
    coords = np.concatenate(flat, dtype=np.float64) if flat else np.empty(0)
    if not np.isfinite(coords).all():
        first = (
            int(np.searchsorted(polygon_offsets, np.flatnonzero(~np.isfinite(coords))[0], side="right")) - 1
        )
        raise ValueError(
            f"polygon coordinates must be finite, polygon {_place(polygons, first)} has NaN or infinity; "
            "drop or repair it"
        )
    instance_offsets = _offsets([len(instance) for instance in polygons])
    return PackedPolygons(*map(torch.from_numpy, (coords, polygon_offsets, instance_offsets)))


@scripting.scripted_as(
    None, "it takes lists of any nesting; torch.ops.mrcnn_plugin.rasterize_polygons takes tensors"
)
def rasterize_polygons(
    polygons: Sequence[Sequence[Any]] | PackedPolygons,
    boxes: Tensor | Any,  # [K, 4]
    mask_size: int,
) -> Tensor:  # [K, M, M]
    """Draws the part of each instance's polygons that lies in its box on a grid of M x M cells.

    Bit-equal to Detectron2's `rasterize_polygons_within_box` (with NumPy >= 2), which is pycocotools' drawing
    of the polygons shifted to the box and scaled by M over its sides, a side below 0.1 pixels taken for 0.1:
    overlaps within one polygon cancel (even-odd), different polygons of an instance add up. Computed in
    float64; coordinates beyond +-4e8 cells saturate.

    Args:
        polygons: of K instances; COCO lists as `pack_polygons` takes them, or its result.
        boxes: (K, 4) xyxy in image pixels, float32 or float64 (others are taken as float32); a tensor, or an
            object that holds one as `.tensor` (Detectron2's `Boxes`). A box that is not finite gives an empty
            mask.
        mask_size: M, 1 to 4096.

    Returns:
        (K, M, M) bool on the device of `boxes`.

    Raises:
        ValueError: as `pack_polygons`; wrong shape of `boxes`, other number of instances, mask size.
        TypeError: wrong type.

    Source: Mask R-CNN, section 3.1 (the target is the RoI's intersection with its ground-truth mask).
    """
    boxes = getattr(boxes, "tensor", boxes)
    if not isinstance(boxes, Tensor) or not boxes.is_floating_point():
        got = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"boxes must be a floating torch.Tensor, got {got}")
    packed = polygons if isinstance(polygons, PackedPolygons) else pack_polygons(polygons)
    count = packed.instance_offsets.numel() - 1
    if boxes.dim() != 2 or boxes.shape[1] != 4 or boxes.shape[0] != count:
        raise ValueError(
            f"boxes must have shape (K, 4) with K = {count} as in polygons, got {tuple(boxes.shape)}"
        )
    mask_size = operator.index(mask_size)
    if not 1 <= mask_size <= MAX_MASK_SIZE:
        raise ValueError(f"mask_size must be 1 to {MAX_MASK_SIZE}, got {mask_size}")
    boxes = boxes.detach()
    arguments = (
        *packed.to(boxes.device),
        boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float(),
        mask_size,
    )
    if native(boxes.device.type):
        return torch.ops.mrcnn_plugin.rasterize_polygons(*arguments)
    return reference.polygons.rasterize_polygons(*arguments)


def _to_array(polygon: Any) -> np.ndarray:
    if isinstance(polygon, Tensor):
        polygon = polygon.detach().cpu().numpy()
    return np.asarray(polygon, dtype=np.float64)


def _offsets(lengths: list[int]) -> np.ndarray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _place(polygons: Sequence[Sequence[Any]], index: int) -> str:
    """ "j of instance i" of the polygon with this running number."""
    for i, instance in enumerate(polygons):
        if index < len(instance):
            return f"{index} of instance {i}"
        index -= len(instance)
    raise IndexError(index)


if library.STATUS["cpu"] is None:

    @torch.library.register_fake("mrcnn_plugin::rasterize_polygons")
    def _fake(
        coords: Tensor, polygon_offsets: Tensor, instance_offsets: Tensor, boxes: Tensor, mask_size: int
    ) -> Tensor:
        return boxes.new_empty((boxes.shape[0], mask_size, mask_size), dtype=torch.bool)
