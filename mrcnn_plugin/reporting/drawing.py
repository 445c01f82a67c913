"""Drawing of instances with OpenCV: masks from their RLEs, boxes, labels and skeletons."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib
import numpy as np
from detectron2.data import Metadata
from PIL import ImageFont
from pycocotools import mask as mask_util

from mrcnn_plugin.modeling.rle_runs import cropped

# Images are enlarged to at least this many pixels at their shorter side, so that labels can be read.
_MIN_SIDE = 400
_MASK_OPACITY, _BOX_OPACITY, _PLATE_OPACITY = 0.4, 0.5, 0.8
_FONT_SIZE = 11
# Keypoints with a lower score, and unlabelled ones of ground truth, are not drawn; Detectron2's value.
_KEYPOINT_THRESHOLD = 0.05
_RED = (255, 0, 0)

Color = tuple[float, float, float]


def draw_instances(
    image: np.ndarray,
    metadata: Metadata,
    colors: Sequence[Color],
    labels: Sequence[str],
    *,
    boxes: np.ndarray,
    masks: Sequence[Any] | None = None,
    keypoints: np.ndarray | None = None,
    view: int | None = None,
    overwrite: bool = False,
) -> np.ndarray:
    """Draws K instances, the largest first.

    A label that would cover another one, or the middle of another instance, is left out: in a dense picture
    the instances are what is looked at.

    Args:
        image: (H, W, 3) uint8 RGB.
        metadata: keypoint names and connections.
        colors: K colours, RGB in [0, 1].
        labels: K texts.
        boxes: (K, 4) xyxy in pixels.
        masks: K of bool (H, W) arrays, COCO RLE dicts or lists of COCO polygons.
        keypoints: (K, num_keypoints, 3), x and y in pixels, and score or visibility.
        view: pixels at the side of the part of the picture that is looked at at once, for the size of labels
            and lines; all of the picture by default.
        overwrite: whether the image may be drawn into, which spares a copy of it.

    Returns:
        (H', W', 3) uint8 RGB; H and W unless the image is small: then it is enlarged.
    """
    scale = max(1.0, _MIN_SIDE / min(image.shape[:2]))
    if scale > 1:
        canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    elif overwrite:
        canvas = np.require(image, np.uint8, ["C", "W"])
    else:
        canvas = np.array(image, dtype=np.uint8, order="C")
    side = min(np.sqrt(canvas.shape[0] * canvas.shape[1]), scale * (view or np.inf))
    rgb = [tuple(round(255 * channel) for channel in color) for color in colors]
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    for index in order:
        _draw_box(canvas, boxes[index] * scale, rgb[index], max(2, round(side / 300)))
        if masks is not None:
            _draw_mask(canvas, masks[index], image.shape[:2], scale, rgb[index])
    for index in order if keypoints is not None else ():
        _draw_skeleton(canvas, np.asarray(keypoints)[index] * (scale, scale, 1), metadata, side)
    _draw_labels(canvas, labels, boxes * scale, rgb, order, max(_FONT_SIZE, side / 55))
    return canvas


def _blend(part: np.ndarray, color: Sequence[float], opacity: float | np.ndarray) -> None:
    """Lays a colour over a part of the canvas, in place; opacity is a number or (h, w, 1)."""
    if part.size:
        part[...] = np.rint(part * (1 - opacity) + np.asarray(color) * opacity)


def _draw_box(canvas: np.ndarray, box: np.ndarray, color: Sequence[int], thickness: int) -> None:
    height, width = canvas.shape[:2]
    x0, y0, x1, y1 = np.rint(box).astype(int).clip(0, (width, height, width, height)).tolist()
    horizontal, vertical = min(thickness, (y1 - y0) // 2), min(thickness, (x1 - x0) // 2)
    _blend(canvas[y0 : y0 + horizontal, x0:x1], color, _BOX_OPACITY)
    _blend(canvas[y1 - horizontal : y1, x0:x1], color, _BOX_OPACITY)
    _blend(canvas[y0 + horizontal : y1 - horizontal, x0 : x0 + vertical], color, _BOX_OPACITY)
    _blend(canvas[y0 + horizontal : y1 - horizontal, x1 - vertical : x1], color, _BOX_OPACITY)


def _mask_crop(mask: Any, size: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """As `cropped`, of any of the forms of a mask."""
    if isinstance(mask, dict):
        return cropped(mask)
    if isinstance(mask, list):
        return cropped(mask_util.merge(mask_util.frPyObjects(mask, *size)))
    mask = np.asarray(mask, dtype=bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return np.zeros((0, 0), bool), 0, 0
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(columns[0]), int(rows[0])


def _draw_mask(
    canvas: np.ndarray, mask: Any, size: tuple[int, int], scale: float, color: Sequence[int]
) -> None:
    """Colours the mask and draws its outline, within the rectangle that holds it."""
    crop, x, y = _mask_crop(mask, size)
    if not crop.size:
        return
    # A margin of one pixel, for the outline and for a smooth edge where the picture is enlarged.
    filled = np.pad(crop.astype(np.uint8), 1)
    if scale > 1:
        enlarged = cv2.resize(filled * 255, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        filled = (enlarged > 127).astype(np.uint8)
    x0, y0 = round((x - 1) * scale), round((y - 1) * scale)
    left, top = max(0, -x0), max(0, -y0)
    part = canvas[max(y0, 0) : y0 + filled.shape[0], max(x0, 0) : x0 + filled.shape[1]]
    filled = np.ascontiguousarray(filled[top : top + part.shape[0], left : left + part.shape[1]])
    inside = filled.astype(bool)
    part[inside] = np.rint(part[inside] * (1 - _MASK_OPACITY) + np.asarray(color) * _MASK_OPACITY)
    contours, _ = cv2.findContours(filled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outline = np.zeros_like(filled)
    cv2.drawContours(outline, contours, -1, 1, thickness=1)
    part[outline.astype(bool)] = color


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )


@functools.lru_cache(maxsize=1024)
def _text(text: str, size: int) -> np.ndarray:
    """A line of text, (h, w, 1) float32 in [0, 1], with a margin."""
    font = _font(size)
    ascent, descent = font.getmetrics()
    mask, (left, top) = font.getmask2(text, mode="L")
    width, height = mask.size
    margin = max(2, size // 5)
    picture = np.zeros((ascent + descent + 2 * margin, left + width + 2 * margin), np.float32)
    glyphs = np.asarray(mask, dtype=np.float32).reshape(height, width) / 255
    picture[margin + top : margin + top + height, margin + left : margin + left + width] = glyphs
    return picture[..., None]


def _draw_labels(
    canvas: np.ndarray,
    labels: Sequence[str],
    boxes: np.ndarray,
    colors: Sequence[Sequence[int]],
    order: np.ndarray,
    size: float,
) -> None:
    """Texts on dark plates, each above its box, or below it at the upper edge, where there is room."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    plates = np.zeros((0, 4))
    for index in order:
        glyphs = _text(labels[index], round(size))
        plate = _plate(glyphs.shape[:2], boxes[index], canvas.shape[:2])
        hidden = ((middles >= plate[:2]) & (middles < plate[2:])).all(1)
        hidden[index] = False
        if hidden.any() or ((plates[:, :2] < plate[2:]) & (plates[:, 2:] > plate[:2])).all(1).any():
            continue
        plates = np.concatenate([plates, plate[None]])
        _draw_label(canvas, glyphs, plate, colors[index])


def _plate(text: tuple[int, int], box: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    """Where a label goes: (4,) int xyxy. One wider or higher than the picture loses its end."""
    (height, width), (picture_height, picture_width) = text, picture
    x0, y0, _, y1 = np.rint(box).astype(int).tolist()
    top = max(y0 - height if y0 >= height else min(y1 + 2, picture_height - height), 0)
    left = max(min(max(x0, 0), picture_width - width), 0)
    return np.array([left, top, min(left + width, picture_width), min(top + height, picture_height)])


def _draw_label(canvas: np.ndarray, glyphs: np.ndarray, plate: np.ndarray, color: Sequence[int]) -> None:
    x0, y0, x1, y1 = plate.tolist()
    part = canvas[y0:y1, x0:x1]
    light = [0.6 * 255 + 0.4 * channel for channel in color]
    _blend(part, (0, 0, 0), _PLATE_OPACITY)
    _blend(part, light, glyphs[: part.shape[0], : part.shape[1]])


def _draw_skeleton(canvas: np.ndarray, keypoints: np.ndarray, metadata: Metadata, side: float) -> None:
    """Points and the metadata's connections; for people also nose to shoulders to hips, as in Detectron2."""
    points = {
        index: (float(x), float(y))
        for index, (x, y, score) in enumerate(keypoints)
        if score > _KEYPOINT_THRESHOLD
    }
    names = metadata.get("keypoint_names") or ()
    named = {names[index]: point for index, point in points.items() if index < len(names)}
    thickness = max(2, round(side / 300))

    def pixel(point: tuple[float, float]) -> tuple[int, int]:
        return round(point[0] - 0.5), round(point[1] - 0.5)

    def middle(left: str, right: str) -> tuple[float, float] | None:
        if left not in named or right not in named:
            return None
        return tuple(np.mean([named[left], named[right]], axis=0))

    lines = [
        (named.get(first), named.get(second), color)
        for first, second, color in metadata.get("keypoint_connection_rules") or ()
    ]
    shoulders, hips = middle("left_shoulder", "right_shoulder"), middle("left_hip", "right_hip")
    lines += [(named.get("nose"), shoulders, _RED), (shoulders, hips, _RED)]
    for start, end, color in lines:
        if start is not None and end is not None:
            cv2.line(canvas, pixel(start), pixel(end), tuple(map(int, color)), thickness, cv2.LINE_AA)
    for point in points.values():
        cv2.circle(canvas, pixel(point), thickness + 1, _RED, -1, cv2.LINE_AA)
