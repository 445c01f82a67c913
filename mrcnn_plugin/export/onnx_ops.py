"""This package's ops in ONNX's own operators (opset 18), for torch.onnx's exporter.

Axes: K RoIs, L levels, C channels, B groups, M side of a mask, S side of a heatmap, J keypoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import FLOAT, INT64, script
from onnxscript import opset18 as op

from mrcnn_plugin.errors import ConfigError

# Any score of a box that takes part is above it; -inf is not.
_LOWEST = -3.4e38


def multi_level_roi_align(
    features: Sequence[FLOAT],
    boxes: FLOAT,
    scales: Sequence[float],
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    canonical_box_size: float,
    canonical_level: int,
    aligned: bool,
    max_pool: bool,
    levels: INT64 | None = None,
) -> FLOAT:
    """A RoiAlign for each level, on the boxes that belong there."""
    if max_pool:
        raise ConfigError(
            "ONNX's RoiAlign has another maximum than the paper's: a model with a pooler of type ROIAlignMax "
            "or ROIAlignV2Max can be exported as pt2 only"
        )
    rois = op.Slice(boxes, [1], [5], [1])
    image = op.Cast(op.Squeeze(op.Slice(boxes, [0], [1], [1]), [1]), to=INT64.dtype)
    options = {
        "coordinate_transformation_mode": "half_pixel" if aligned else "output_half_pixel",
        "output_height": pooled_height,
        "output_width": pooled_width,
        "sampling_ratio": max(sampling_ratio, 0),
        "mode": "avg",
    }
    if len(features) == 1:
        return op.RoiAlign(features[0], rois, image, spatial_scale=scales[0], **options)
    if levels is None:
        levels = _levels(rois, scales, canonical_box_size, canonical_level)
    pooled, order = [], []
    for level, (feature, scale) in enumerate(zip(features, scales)):
        index = op.Squeeze(op.NonZero(op.Equal(levels, op.Constant(value_int=level))), [0])
        parts = (op.Gather(rois, index), op.Gather(image, index))
        pooled.append(op.RoiAlign(feature, *parts, spatial_scale=scale, **options))
        order.append(index)
    # Back into the order of the boxes: row i of the result is the one whose index is i.
    index = op.Concat(*order, axis=0)
    count = op.Squeeze(op.Shape(index), [0])
    places = op.ScatterElements(
        index, index, op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1))
    )
    return op.Gather(op.Concat(*pooled, axis=0), places)


def _levels(rois: FLOAT, scales: Sequence[float], canonical_box_size: float, canonical_level: int) -> INT64:
    """(K,) offsets into `scales`: Feature Pyramid Networks, Eq. 1, rounded as the op rounds it."""
    x0, y0, x1, y1 = op.Split(rois, axis=1, num_outputs=4)
    sizes = op.Squeeze(op.Sqrt(op.Mul(op.Sub(x1, x0), op.Sub(y1, y0))), [1])
    ratio = op.Add(
        op.Div(sizes, op.Constant(value_float=float(canonical_box_size))), op.Constant(value_float=1e-8)
    )
    log2 = op.Div(op.Log(ratio), op.Constant(value_float=math.log(2.0)))
    level = op.Floor(op.Add(log2, op.Constant(value_float=float(canonical_level))))
    least = float(round(-math.log2(scales[0])))
    most = least + len(scales) - 1
    level = op.Clip(level, op.Constant(value_float=least), op.Constant(value_float=most))
    return op.Cast(op.Sub(level, op.Constant(value_float=least)), to=INT64.dtype)


def nms_mask(boxes: FLOAT, scores: FLOAT, iou_threshold: float) -> Any:
    """NonMaxSuppression, each group being an image of one class; its triples become a mask."""
    selected = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, [1]),
        op.Shape(scores, start=1, end=2),
        op.Constant(value_floats=[float(iou_threshold)]),
        op.Constant(value_floats=[_LOWEST]),
    )
    index = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    none = op.ConstantOfShape(op.Shape(scores))
    ones = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(index, start=0, end=1))
    return op.Greater(op.ScatterND(none, index, ones), op.Constant(value_float=0.0))


def paste_masks(masks: FLOAT, boxes: FLOAT, height: INT64, width: INT64, threshold: float) -> Any:
    """Bilinear sampling as two products, A_y M A_x^T for each mask, and a comparison."""
    if threshold < 0:
        raise ConfigError("only masks with a threshold from 0 on can be exported to ONNX")
    x0, y0, x1, y1 = op.Split(boxes, axis=1, num_outputs=4)
    cells = op.Shape(masks, start=1, end=2)
    rows, columns = _bilinear(y0, y1, height, cells), _bilinear(x0, x1, width, cells)
    values = op.MatMul(op.MatMul(rows, masks), op.Transpose(columns, perm=[0, 2, 1]))
    return op.GreaterOrEqual(values, op.Constant(value_float=float(threshold)))


def _bilinear(low: FLOAT, high: FLOAT, pixels: INT64, cells: INT64) -> FLOAT:
    """(K, pixels, M): the weight of each cell of a mask at each pixel's centre; 0 beyond the mask."""
    half = op.Constant(value_float=0.5)
    centres = op.Add(_arange(pixels), half)  # (pixels,)
    scale = op.Div(op.Cast(cells, to=FLOAT.dtype), op.Sub(high, low))  # (K, 1)
    positions = op.Sub(op.Mul(op.Sub(centres, low), scale), half)  # (K, pixels)
    distance = op.Abs(op.Sub(op.Unsqueeze(positions, [2]), _arange(cells)))
    return op.Relu(op.Sub(op.Constant(value_float=1.0), distance))


def _arange(count: INT64) -> FLOAT:
    """0, 1, ... as float32, of `count` numbers."""
    stop = op.Cast(op.Reshape(count, op.Constant(value_ints=[1])), to=FLOAT.dtype)
    return op.Range(op.Constant(value_float=0.0), op.Squeeze(stop, [0]), op.Constant(value_float=1.0))


# One function, as the exporter does not keep those that a script calls.
@script()
def _peaks(maps: FLOAT, boxes: FLOAT) -> FLOAT:
    """(K, J, S, S) logits and (K, 4) boxes to (K, J, 4): x, y, logit, score of each highest pixel.

    One RoI after the other, as their resampled maps differ in size: torch's bicubic resizing (a = -0.75,
    borders replicated) as two products, W_y M W_x^T.
    """
    zero = op.Constant(value_float=0.0)
    one = op.Constant(value_float=1.0)
    half = op.Constant(value_float=0.5)
    last = op.Constant(value_ints=[1])
    side = op.Cast(op.Squeeze(op.Shape(maps, start=2, end=3)), to=1)
    cells = op.Range(op.Constant(value_float=-2.0), side + 2.0, one)
    padded = op.Pad(maps, op.Constant(value_ints=[0, 0, 2, 2, 0, 0, 2, 2]), mode="edge")
    empty = op.Constant(value_ints=[0])
    found = op.ConstantOfShape(
        op.Concat(empty, op.Shape(maps, start=1, end=2), op.Constant(value_ints=[4]), axis=0)
    )
    for i in range(op.Squeeze(op.Shape(maps, start=0, end=1))):
        x0, y0, x1, y1 = op.Split(op.Gather(boxes, i), num_outputs=4)
        width = op.Max(op.Squeeze(x1 - x0), one)
        height = op.Max(op.Squeeze(y1 - y0), one)
        columns = op.Ceil(width)
        rows = op.Ceil(height)
        y = (op.Range(zero, rows, one) + half) * (side / rows) - half
        x = (op.Range(zero, columns, one) + half) * (side / columns) - half
        distance = op.Abs(op.Unsqueeze(op.Concat(y, x, axis=0), last) - cells)
        near = (distance * 1.25 - 2.25) * distance * distance + 1.0
        far = ((distance * -0.75 + 3.75) * distance - 6.0) * distance + 3.0
        weights = op.Where(op.Less(distance, one), near, op.Where(op.Less(distance, one + one), far, zero))
        split = op.Unsqueeze(op.Cast(rows, to=7), empty)
        count = op.Unsqueeze(op.Cast(columns, to=7), empty)
        of_rows, of_columns = op.Split(weights, op.Concat(split, count, axis=0), axis=0)
        values = op.MatMul(op.MatMul(of_rows, op.Gather(padded, i)), op.Transpose(of_columns, perm=[1, 0]))
        flat = op.Flatten(values, axis=1)
        index = op.ArgMax(flat, axis=1, keepdims=0)
        logit = op.ReduceMax(flat, last, keepdims=1)
        column = (op.Cast(op.Mod(index, count), to=1) + half) * (width / columns) + x0
        row = (op.Cast(op.Div(index, count), to=1) + half) * (height / rows) + y0
        logits = op.Flatten(op.Gather(maps, i), axis=1)
        score = op.Div(one, op.ReduceSum(op.Exp(logits - logit), last, keepdims=1))
        point = op.Concat(op.Unsqueeze(column, last), op.Unsqueeze(row, last), logit, score, axis=1)
        found = op.Concat(found, op.Unsqueeze(point, empty), axis=0)
    return found


def heatmaps_to_keypoints(maps: FLOAT, boxes: FLOAT) -> FLOAT:
    """A loop over the RoIs."""
    return _peaks(maps, boxes)


def adaptive_max_pool2d(x: FLOAT, output_size: Sequence[int]) -> tuple[FLOAT, INT64]:
    """MaxPool, where the bins are all of one size."""
    sides = x.shape[2:]
    if any(not isinstance(side, int) or side % bins for side, bins in zip(sides, output_size)):
        raise ConfigError(
            f"adaptive_max_pool2d of {list(sides)} to {list(output_size)} cannot be exported to ONNX: "
            "its bins are not of one size"
        )
    bin_size = [side // bins for side, bins in zip(sides, output_size)]
    return op.MaxPool(x, kernel_shape=bin_size, strides=bin_size)


def translations() -> dict[Callable, Callable]:
    """What `torch.onnx.export` takes as `custom_translation_table`."""
    ops = torch.ops.mrcnn_plugin
    return {
        ops.multi_level_roi_align.default: multi_level_roi_align,
        ops.nms_mask.default: nms_mask,
        ops.paste_masks.default: paste_masks,
        ops.heatmaps_to_keypoints.default: heatmaps_to_keypoints,
        torch.ops.aten.adaptive_max_pool2d.default: adaptive_max_pool2d,
    }
