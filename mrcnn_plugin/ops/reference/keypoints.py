"""Reference of heatmaps_to_keypoints: each RoI's maps really resampled, one RoI after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SIDE = 16384
MAX_LOGIT = 1e37


def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> Tensor:
    """maps (K, num_keypoints, H, W) and rois (K, 4), both float32, to (K, num_keypoints, 4); see the op."""
    keypoints = maps.new_full((*maps.shape[:2], 4), math.nan)
    for i, roi in enumerate(rois):
        size = roi[2:] - roi[:2]
        if not torch.isfinite(torch.cat([roi, size])).all():
            continue
        size = size.clamp(min=1)
        pixels = size.ceil().clamp(max=MAX_SIDE)
        width, height = pixels.long().tolist()
        for k, heatmap in enumerate(maps[i]):
            if bool((heatmap.abs() <= MAX_LOGIT).all()):
                values = F.interpolate(heatmap[None, None], (height, width), mode="bicubic")[0, 0]
                y, x = torch.nonzero(values == values.max())[0]
                logit = values[y, x]
                keypoints[i, k, :2] = (torch.stack([x, y]) + 0.5) * (size / pixels) + roi[:2]
                keypoints[i, k, 2] = logit
                keypoints[i, k, 3] = 1 / (heatmap - logit).exp().sum()
    return keypoints
