"""Pastes the masks of detections, predicted on a small grid, into image-sized masks."""

from __future__ import annotations

import functools
import math
import operator
from typing import Any

import torch
from torch import Tensor

from mrcnn_plugin.ops import library, reference, scripting
from mrcnn_plugin.ops.library import native


@scripting.scripted_as(scripting.paste_masks)
def paste_masks(
    masks: Tensor, boxes: Tensor | Any, image_shape: tuple[int, int], threshold: float = 0.5
) -> Tensor:
    """Resamples each mask to its box in the image and thresholds it, as Detectron2's `paste_masks_in_image`.

    A pixel is the bilinear sample of the mask (zeros beyond it) at the pixel's centre. Computed in float32,
    whatever the inputs' dtypes, with fixed rounding: CPU and CUDA agree in every bit, and so does Detectron2
    on a CPU with fused multiply-add. Elsewhere (its CUDA path, half-precision masks) pixels whose value lies
    within rounding of the threshold may differ. The tie rule is Detectron2's: value == threshold is inside.

    Only the pixels floor(x0) - 1 <= x < ceil(x1) + 1 (y alike) are computed and all others are 0, as on
    Detectron2's CPU path; at thresholds below 0.5 its CUDA path reaches half a mask cell further out. A box
    with a NaN corner, without extent or outside the image gives an empty mask, and a pixel whose value is
    NaN is outside.

    Args:
        masks: (K, Mh, Mw) probabilities in [0, 1]; any real dtype.
        boxes: (K, 4) xyxy in image pixels, any floating dtype, on the device of `masks`; a tensor, or an
            object that holds one as `.tensor` (Detectron2's `Boxes`).
        image_shape: (height, width) in pixels.
        threshold: a pixel is inside where its value >= threshold. Negative: no thresholding.

    Returns:
        (K, height, width) bool; for a negative threshold uint8, the value times 255, truncated.

    Raises:
        ValueError: wrong shape, device, image size, or NaN threshold.
        TypeError: wrong type or dtype.
    """
    if not isinstance(masks, Tensor) and (proxy := scripting.a_proxy(masks)) is not None:
        return scripting.recorded(proxy, paste_masks, masks, boxes, image_shape, threshold)
    masks, boxes, height, width = check_inputs(masks, boxes, image_shape, threshold)
    if isinstance(height, Tensor) or isinstance(width, Tensor):
        size = torch.stack([torch.as_tensor(height), torch.as_tensor(width)])
        return _scripted()(masks, boxes, size, float(threshold))
    if native(masks.device.type):
        return torch.ops.mrcnn_plugin.paste_masks(masks, boxes, height, width, float(threshold))
    return reference.masks.paste_masks(masks, boxes, height, width, float(threshold))


@functools.cache
def _scripted() -> Any:
    """The op for a trace: a trace keeps numbers, but a compiled function in it reads tensors anew."""
    return torch.jit.script(scripting.paste_masks_into)


def check_inputs(
    masks: Tensor, boxes: Tensor | Any, image_shape: tuple[int, int], threshold: float
) -> tuple[Tensor, Tensor, int, int]:
    """Masks and boxes as contiguous float32 without gradient, height, width; or a clear error."""
    boxes = getattr(boxes, "tensor", boxes)
    for name, value in (("masks", masks), ("boxes", boxes)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.is_complex():
            raise TypeError(f"{name} must have a real dtype, got {value.dtype}")
    if masks.dim() != 3 or (0 in masks.shape[1:] and masks.shape[0]):
        raise ValueError(
            f"masks must have shape (K, Mh, Mw) with Mh, Mw >= 1, got {tuple(masks.shape)}; "
            "select one class and drop the channel axis first"
        )
    if boxes.dim() != 2 or boxes.shape[1] != 4 or boxes.shape[0] != masks.shape[0]:
        raise ValueError(f"boxes must have shape (K, 4) with K = {masks.shape[0]}, got {tuple(boxes.shape)}")
    if boxes.device != masks.device:
        raise ValueError(f"boxes must be on the device of masks, {masks.device}, got {boxes.device}")
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got NaN")
    height, width = image_size(image_shape)
    return masks.detach().float().contiguous(), boxes.detach().float().contiguous(), height, width


def image_size(image_shape: tuple[int, int]) -> tuple[int, int]:
    """(height, width) as integers >= 0, or a clear error."""
    try:
        height, width = map(_side, image_shape)
    except (TypeError, ValueError):
        raise TypeError(f"image_shape must be two integers (height, width), got {image_shape!r}") from None
    if isinstance(height, Tensor) or isinstance(width, Tensor):
        return height, width
    if height < 0 or width < 0:
        raise ValueError(f"image_shape must be (height, width) >= 0, got {(height, width)}")
    return height, width


def _side(size: Any) -> Any:
    # What a trace records of a size is a tensor; as a number it would be the same for every input.
    recorded = isinstance(size, Tensor) and torch.jit.is_tracing()
    return size if recorded or isinstance(size, torch.SymInt) else operator.index(size)


if library.STATUS["cpu"] is None:

    @torch.library.register_fake("mrcnn_plugin::paste_masks")
    def _fake(masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float) -> Tensor:
        dtype = torch.bool if threshold >= 0 else torch.uint8
        return masks.new_empty((masks.shape[0], height, width), dtype=dtype)
