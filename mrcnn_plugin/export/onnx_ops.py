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
    places = op.ScatterElements(index, index, op.Range(op.Constant(value_int=0), count, op.Constant(value_int=1)))
    return op.Gather(op.Concat(*pooled, axis=0), places)


def _levels(
    rois: FLOAT, scales: Sequence[float], canonical_box_size: float, canonical_level: int
) -> INT64:
    """(K,) offsets into `scales`: Feature Pyramid Networks, Eq. 1, rounded as the op rounds it."""
    x0, y0, x1, y1 = op.Split(rois, axis=1, num_outputs=4)
    sizes = op.Squeeze(op.Sqrt(op.Mul(op.Sub(x1, x0), op.Sub(y1, y0))), [1])
    ratio = op.Add(op.Div(sizes, op.Constant(value_float=float(canonical_box_size))), op.Constant(value_float=1e-8))
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


@script()
def _cubic_weights(length, cells):
    """(n, S): the weight of each of S cells at each of n pixels of a RoI `length` pixels long.

    torch's bicubic resizing: a = -0.75, borders replicated.
    """
    pixels = op.Ceil(length)
    half = op.Constant(value_float=0.5)
    zero = op.Constant(value_float=0.0)
    one = op.Constant(value_float=1.0)
    index = op.Range(zero, pixels, one)
    position = (index + half) * (op.Cast(cells, to=1) / pixels) - half
    cell = op.Floor(position)
    t = position - cell
    near, far = op.Constant(value_floats=[1.25, -2.25]), op.Constant(value_float=0.75)
    # The cubic convolution kernel within one cell, and between one and two cells.
    a, b = t, one - t
    inner_0 = (1.25 * a - 2.25) * a * a + 1.0
    inner_1 = (1.25 * b - 2.25) * b * b + 1.0
    c, d = a + 1.0, b + 1.0
    outer_0 = ((-0.75 * c + 3.75) * c - 6.0) * c + 3.0
    outer_1 = ((-0.75 * d + 3.75) * d - 6.0) * d + 3.0
    weights = op.Concat(
        op.Unsqueeze(outer_0, [1]),
        op.Unsqueeze(inner_0, [1]),
        op.Unsqueeze(inner_1, [1]),
        op.Unsqueeze(outer_1, [1]),
        axis=1,
    )
    taps = op.Unsqueeze(cell, [1]) + op.Constant(value_floats=[-1.0, 0.0, 1.0, 2.0])
    taps = op.Clip(taps, zero, op.Cast(cells, to=1) - 1.0)
    columns = op.Range(zero, op.Cast(cells, to=1), one)
    # (n, 4, S): which cell a tap reads.
    reads = op.Cast(op.Equal(op.Unsqueeze(taps, [2]), columns), to=1)
    return op.Squeeze(op.MatMul(op.Unsqueeze(weights, [1]), reads), [1])


@script()
def _peak(maps, box):
    """(J, S, S) logits and a box (4,) to (1, J, 4): x, y, logit, score of the highest pixel."""
    x0, y0, x1, y1 = op.Split(box, num_outputs=4)
    one = op.Constant(value_float=1.0)
    width = op.Max(op.Squeeze(x1 - x0), one)
    height = op.Max(op.Squeeze(y1 - y0), one)
    side = op.Squeeze(op.Shape(maps, start=1, end=2))
    rows = _cubic_weights(height, side)
    columns = op.Transpose(_cubic_weights(width, side), perm=[1, 0])
    values = op.MatMul(op.MatMul(rows, maps), columns)  # (J, h, w)
    flat = op.Flatten(values, axis=1)
    index = op.ArgMax(flat, axis=1, keepdims=0)  # (J,)
    logit = op.ReduceMax(flat, op.Constant(value_ints=[1]), keepdims=1)  # (J, 1)
    count = op.Shape(values, start=2, end=3)
    column = op.Cast(op.Mod(index, count), to=1)
    row = op.Cast(op.Div(index, count), to=1)
    x = (column + 0.5) * (width / op.Ceil(width)) + x0
    y = (row + 0.5) * (height / op.Ceil(height)) + y0
    total = op.ReduceSum(op.Exp(op.Flatten(maps, axis=1) - logit), op.Constant(value_ints=[1]), keepdims=1)
    score = op.Div(one, total)
    found = op.Concat(op.Unsqueeze(x, [1]), op.Unsqueeze(y, [1]), logit, score, axis=1)
    return op.Unsqueeze(found, [0])


@script()
def _peaks(maps, boxes):
    """(K, J, S, S) and (K, 4) to (K, J, 4), one RoI after the other, as their maps differ in size."""
    count = op.Squeeze(op.Shape(maps, start=0, end=1))
    points = op.Shape(maps, start=1, end=2)
    shape = op.Concat(op.Constant(value_ints=[0]), points, op.Constant(value_ints=[4]), axis=0)
    found = op.ConstantOfShape(shape)
    for i in range(count):
        one = _peak(op.Gather(maps, i), op.Gather(boxes, i))
        found = op.Concat(found, one, axis=0)
    return found


def heatmaps_to_keypoints(maps: FLOAT, boxes: FLOAT) -> FLOAT:
    return _peaks(maps, boxes)


def translations() -> dict[Callable, Callable]:
    """What `torch.onnx.export` takes as `custom_translation_table`."""
    ops = torch.ops.mrcnn_plugin
    return {
        ops.multi_level_roi_align.default: multi_level_roi_align,
        ops.nms_mask.default: nms_mask,
        ops.paste_masks.default: paste_masks,
        ops.heatmaps_to_keypoints.default: heatmaps_to_keypoints,
    }
