"""Keypoints in the image from the heatmaps that a keypoint head predicts for RoIs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrcnn_plugin.ops import library, reference, scripting
from mrcnn_plugin.ops.library import native

# Rows and columns of a heatmap, and upsampled pixels searched along a side; as in csrc/keypoints/heatmap.h.
MAX_SIDE = reference.keypoints.MAX_SIDE


@scripting.scripted_as(scripting.heatmaps_to_keypoints)
def heatmaps_to_keypoints(
    maps: Tensor,  # [K, num_keypoints, H, W]
    rois: Tensor | Any,  # [K, 4]
) -> Tensor:  # [K, num_keypoints, 4]
    """The peak of each heatmap resampled to its RoI, as Detectron2's function of this name finds it.

    A map is resampled bicubically (a = -0.75, borders replicated, `align_corners=False`) to the RoI's width
    and height rounded up, each at least 1; the keypoint is the centre of the highest pixel, scaled back to
    the RoI's exact size. Of pixels with equal values the first in row-major order is taken. Values are those
    of torch's bicubic CPU kernel to the last bits; where two pixels differ by less than that, another
    implementation may prefer the other one.

    Computed in float32 whatever the inputs' dtypes, in one launch and without the resampled maps. Not
    differentiable, as in Detectron2: the result carries no gradient.

    Args:
        maps: (K, num_keypoints, H, W) logits of the keypoints of K RoIs, 1 <= H, W <= 16384, any floating
            dtype.
        rois: (K, 4) xyxy in image pixels, any floating dtype, on the device of `maps`; a tensor, or an object
            that holds one as `.tensor` (Detectron2's `Boxes`).

    Returns:
        (K, num_keypoints, 4) x, y in image pixels; the logit at the peak; the score, exp(logit) over the sum
        of exp over the H x W map, not over the resampled one, so that scores of RoIs of different sizes
        compare (it can exceed 1). float64 where `maps` is, else float32: in half precision, coordinates are
        off by pixels. All four are NaN for a RoI that is not finite, and for a map with a NaN or a logit
        beyond +-1e37. A RoI longer than 16384 pixels is resampled to 16384.

    Raises:
        ValueError: wrong shape or device.
        TypeError: wrong type or dtype.

    Source: Mask R-CNN, section 5 (one-hot keypoint masks); Heckbert's c = d + 0.5 for pixel centres.
    """
    if not isinstance(maps, Tensor) and (proxy := scripting.a_proxy(maps)) is not None:
        return scripting.recorded(proxy, heatmaps_to_keypoints, maps, rois)
    rois = getattr(rois, "tensor", rois)
    _check(maps, rois)
    arguments = (maps.detach().float(), rois.detach().float())
    if native(maps.device.type):
        keypoints = torch.ops.mrcnn_plugin.heatmaps_to_keypoints(*arguments)
    else:
        keypoints = reference.keypoints.heatmaps_to_keypoints(*arguments)
    return keypoints.double() if maps.dtype == torch.float64 else keypoints


def _check(maps: Tensor, rois: Tensor) -> None:
    for name, value in (("maps", maps), ("rois", rois)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if not value.is_floating_point():
            raise TypeError(f"{name} must have a floating dtype, got {value.dtype}; convert it with .float()")
    if maps.dim() != 4:
        raise ValueError(f"maps must have shape (K, num_keypoints, H, W), got {tuple(maps.shape)}")
    if not all(1 <= side <= MAX_SIDE for side in maps.shape[2:]):
        raise ValueError(f"maps must have 1 to {MAX_SIDE} rows and columns, got {tuple(maps.shape)}")
    if rois.dim() != 2 or rois.shape[1] != 4 or rois.shape[0] != maps.shape[0]:
        raise ValueError(f"rois must have shape (K, 4) with K = {maps.shape[0]}, got {tuple(rois.shape)}")
    if rois.device != maps.device:
        raise ValueError(f"rois must be on the device of maps, {maps.device}, got {rois.device}")


if library.STATUS["cpu"] is None:

    @torch.library.register_fake("mrcnn_plugin::heatmaps_to_keypoints")
    def _fake(maps: Tensor, rois: Tensor) -> Tensor:
        return maps.new_empty((maps.shape[0], maps.shape[1], 4))
