"""`torch.vmap` over the ops: the examples of the mapped dimension become further images, boxes or instances.

A call that is mapped over B examples runs as one call of the op: N images become B x N and K boxes B x K, as
no RoI, mask or heatmap depends on another one. Gradients reach the inputs of `torch.vmap`; `torch.func.grad`
refuses every operator whose gradient is registered with `torch.library`, with a message of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import library

_Dims = int | None


def _spread(tensor: Tensor, dim: _Dims, size: int) -> Tensor:
    """`tensor` with the mapped dimension, of `size`, in front."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _folded(tensor: Tensor, dim: _Dims, size: int) -> Tensor:
    """(..., B, ...) mapped over `dim` -> (B * first, ...)."""
    return _spread(tensor, dim, size).flatten(0, 1)


def _unfolded(tensor: Tensor, size: int) -> Tensor:
    return tensor.unflatten(0, (size, tensor.shape[0] // size))


def _folded_boxes(boxes: Tensor, dim: _Dims, size: int, images: int | None) -> Tensor:
    """Boxes (K, 5) of each example -> (B * K, 5); with `images` per example, the batch index counts on."""
    boxes = _spread(boxes, dim, size)
    if images is not None:
        index = boxes[..., :1]
        first = torch.arange(size, dtype=boxes.dtype, device=boxes.device).view(-1, 1, 1) * images
        # An index outside its example must not become a valid one of another.
        valid = (index > -1) & (index < images)
        boxes = torch.cat([torch.where(valid, index + first, -1.0), boxes[..., 1:]], dim=-1)
    return boxes.flatten(0, 1)


def _levels(rest: Sequence[Any], dims: Sequence[Any], size: int) -> list[Any]:
    """The trailing arguments, `levels` among them where it was given."""
    return [
        _folded(value, dim, size) if isinstance(value, Tensor) else value for value, dim in zip(rest, dims)
    ]


def _forward(info: Any, in_dims: tuple, features: list[Tensor], boxes: Tensor, *rest: Any) -> tuple:
    size, (feature_dims, box_dim, *rest_dims) = info.batch_size, in_dims
    images = None
    if any(dim is not None for dim in feature_dims):
        features = [_folded(feature, dim, size) for feature, dim in zip(features, feature_dims)]
        images = features[0].shape[0] // size
    rois = _folded_boxes(boxes, box_dim, size, images)
    pooled = torch.ops.mrcnn_plugin.multi_level_roi_align(features, rois, *_levels(rest, rest_dims, size))
    return _unfolded(pooled, size), 0


def _rowwise(op: Any):
    """The rule of an op whose tensors are per instance, (K, ...), and whose result is."""

    def rule(info: Any, in_dims: tuple, first: Tensor, second: Tensor, *rest: Any) -> tuple:
        size = info.batch_size
        result = op(_folded(first, in_dims[0], size), _folded(second, in_dims[1], size), *rest)
        return _unfolded(result, size), 0

    return rule


def _refused(name: str):
    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple:
        raise RuntimeError(
            f"{name} cannot be mapped by torch.vmap: its result has another size for each example. Call it "
            "once with the instances of all examples"
        )

    return rule


def register() -> None:
    """Registers the rules, where the native library has the schemas."""
    if library.STATUS["cpu"] is not None:
        return
    ops = torch.ops.mrcnn_plugin
    torch.library.register_vmap("mrcnn_plugin::multi_level_roi_align", _forward)
    for op in ("paste_masks", "heatmaps_to_keypoints"):
        torch.library.register_vmap(f"mrcnn_plugin::{op}", _rowwise(getattr(ops, op)))
    for op in ("encode_masks", "rasterize_polygons"):
        torch.library.register_vmap(f"mrcnn_plugin::{op}", _refused(op))
