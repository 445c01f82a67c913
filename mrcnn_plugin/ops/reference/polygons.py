"""Reference of rasterize_polygons: pycocotools itself, one instance after the other."""

from __future__ import annotations

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor


def rasterize_polygons(
    coords: Tensor, polygon_offsets: Tensor, instance_offsets: Tensor, boxes: Tensor, mask_size: int
) -> Tensor:
    """Packed polygons (see `mrcnn_plugin.ops.PackedPolygons`) and (K, 4) boxes to (K, M, M) bool."""
    masks = torch.zeros((len(boxes), mask_size, mask_size), dtype=torch.bool)
    flat = coords.cpu().numpy()
    starts = polygon_offsets.tolist()
    instances = instance_offsets.tolist()
    for i, box in enumerate(boxes.cpu().numpy()):
        size = box[2:] - box[:2]
        if instances[i] == instances[i + 1] or not np.isfinite(size).all():
            continue
        # A side below 0.1 pixels is taken for 0.1, in double precision; others in the boxes' own dtype.
        scale = [
            mask_size / 0.1 if side < box.dtype.type(0.1) else box.dtype.type(mask_size) / side
            for side in size
        ]
        polygons = [
            (
                (flat[starts[j] : starts[j + 1]].reshape(-1, 2) - box[:2]) * np.array(scale, dtype=np.float64)
            ).ravel()
            for j in range(instances[i], instances[i + 1])
        ]
        rle = coco_mask.merge(coco_mask.frPyObjects([p.tolist() for p in polygons], mask_size, mask_size))
        masks[i] = torch.from_numpy(coco_mask.decode(rle).astype(bool))
    return masks.to(boxes.device)
