"""Run-length encodes the masks of detections straight from their small grids."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, overload

import torch
from torch import Tensor

from mrcnn_plugin.ops import library, reference, scripting
from mrcnn_plugin.ops.library import native
from mrcnn_plugin.ops.paste_masks import check_inputs

RLE = dict[str, Any]


@overload
def encode_masks(
    masks: Tensor,
    boxes: Tensor | Any,
    image_shape: tuple[int, int],
    threshold: float = ...,
    *,
    return_stats: Literal[False] = ...,
) -> list[RLE]: ...


@overload
def encode_masks(
    masks: Tensor,
    boxes: Tensor | Any,
    image_shape: tuple[int, int],
    threshold: float = ...,
    *,
    return_stats: Literal[True],
) -> tuple[list[RLE], Tensor, Tensor]: ...


@scripting.scripted_as(
    None, "its result holds bytes, which TorchScript lacks; torch.ops.mrcnn_plugin.encode_masks gives tensors"
)
def encode_masks(
    masks: Tensor,
    boxes: Tensor | Any,
    image_shape: tuple[int, int],
    threshold: float = 0.5,
    *,
    return_stats: bool = False,
) -> list[RLE] | tuple[list[RLE], Tensor, Tensor]:
    """COCO's compressed RLE of the pixels that `paste_masks` sets, without holding an image-sized mask.

    Byte-equal to `pycocotools.mask.encode` of `paste_masks(masks, boxes, image_shape, threshold)`; the
    arguments and what is computed for odd boxes are described there. On CUDA the host waits for the result,
    and only the codes are copied to it.

    Args:
        masks: (K, Mh, Mw) probabilities in [0, 1]; any real dtype.
        boxes: (K, 4) xyxy in image pixels; a tensor, or an object that holds one as `.tensor`.
        image_shape: (height, width) in pixels, fewer than 2**32 of them.
        threshold: >= 0; a pixel is inside where its value >= threshold.
        return_stats: also return areas and boxes of the encoded pixels.

    Returns:
        K dicts {"size": [height, width], "counts": bytes}. With `return_stats`, a tuple of that list, the
        areas, (K,) int64 pixels as `pycocotools.mask.area`, and the tight boxes, (K, 4) float64 xywh as
        `pycocotools.mask.toBbox` (all 0 for an empty mask), both on the CPU.

    Raises:
        ValueError: wrong shape, device or image size; NaN or negative threshold.
        TypeError: wrong type or dtype.
    """
    if torch.jit.is_tracing():
        raise RuntimeError(
            "encode_masks cannot be traced: its result holds bytes. Trace paste_masks, or a MaskRCNN whose "
            "mask_format is 'bitmask' or 'raw'"
        )
    masks, boxes, height, width = check_inputs(masks, boxes, image_shape, threshold)
    if threshold < 0:
        raise ValueError(f"threshold must be >= 0 (only binary masks have an RLE), got {threshold}")
    if height * width >= 2**32:
        raise ValueError(
            "image_shape must have fewer than 2**32 pixels (COCO's counts have 32 bits), "
            f"got {(height, width)}"
        )
    op = torch.ops.mrcnn_plugin.encode_masks if native(masks.device.type) else reference.masks.encode_masks
    counts, offsets, areas, tight = op(masks, boxes, height, width, float(threshold))
    code, ends = counts.cpu().numpy().tobytes(), offsets.tolist()
    rles = [{"size": [height, width], "counts": code[begin:end]} for begin, end in pairwise(ends)]
    return (rles, areas.cpu(), tight.cpu().double()) if return_stats else rles


if library.STATUS["cpu"] is None:

    @torch.library.register_fake("mrcnn_plugin::encode_masks")
    def _fake(
        masks: Tensor, boxes: Tensor, height: int, width: int, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n = masks.shape[0]
        size = torch.library.get_ctx().new_dynamic_size()
        counts = masks.new_empty((size,), dtype=torch.uint8)
        offsets, areas, tight = (
            masks.new_empty(shape, dtype=torch.int64) for shape in ((n + 1,), (n,), (n, 4))
        )
        return counts, offsets, areas, tight
