"""Masks as COCO's segmentations: polygons or RLE, with area and box by pycocotools' rules.

The outline of a mask runs along the edges of its pixels, so pycocotools draws exactly that mask from it. RLE
is for what one outline cannot say, a hole; or the outline goes into the hole and back by the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util

FORMS = ("auto", "polygon", "rle")
# Below this IoU with the mask its polygons are not used by the form "auto".
MIN_IOU = 0.99
# Polygons may leave the picture, but not by more than this many times its longer side.
MAX_REACH = 10


def reaches_far(polygon: np.ndarray, height: int, width: int) -> bool:
    """Whether (P, 2) x, y is so far outside that it is a mistake; pycocotools would hold each step there."""
    return bool(np.abs(polygon).max(initial=0) > MAX_REACH * max(height, width))


def segment_polygons(
    polygons: Sequence[np.ndarray], height: int, width: int, form: str = "auto"
) -> dict | None:
    """COCO's segmentation, area and bbox of one instance.

    polygons: its parts, each (P, 2) x, y in pixels, a pixel being 1 wide, P >= 3; form: "auto" and "polygon"
    keep them (to a thousandth of a pixel), "rle" draws them. None where they cover no pixel's centre.
    """
    flat = [np.round(polygon, 3).ravel().tolist() for polygon in polygons]
    rle = merge_polygons(flat, height, width)
    return _fields(_readable(rle) if form == "rle" else flat, rle)


def segment_mask(mask: np.ndarray, form: str = "auto") -> dict | None:
    """COCO's segmentation, area and bbox of one instance.

    mask: (H, W) bool; form: "polygon" and "rle" force one, "auto" takes polygons, but RLE for a mask with
    holes or where the polygons' IoU with it is below 0.99. None where the mask is empty.
    """
    height, width = mask.shape
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    if form == "rle" or not mask.any():
        return _fields(_readable(rle), rle)
    outlines, holes = trace_outlines(mask)
    if form == "auto" and any(holes):
        return _fields(_readable(rle), rle)
    joined = [join_holes(outline, inner) for outline, inner in zip(outlines, holes)]
    polygons = [outline.ravel().tolist() for outline in joined]
    drawn = merge_polygons(polygons, height, width)
    if form == "auto" and mask_util.iou([drawn], [rle], [0])[0, 0] < MIN_IOU:
        return _fields(_readable(rle), rle)
    return _fields(polygons, drawn)


def merge_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> dict:
    """The RLE that pycocotools draws from COCO's polygons."""
    return mask_util.merge(mask_util.frPyObjects(list(polygons), height, width))


def decode_segmentation(segmentation: list | dict, height: int, width: int) -> np.ndarray:
    """(height, width) bool from COCO's polygons, RLE or uncompressed RLE."""
    if isinstance(segmentation, list):
        rle = merge_polygons(segmentation, height, width)
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return mask_util.decode(rle).astype(bool)


def _readable(rle: dict) -> dict:
    """RLE whose counts JSON can hold."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _fields(segmentation: list | dict, rle: dict) -> dict | None:
    area = float(mask_util.area(rle))
    if area == 0:
        return None
    return {"segmentation": segmentation, "area": area, "bbox": mask_util.toBbox(rle).tolist()}


def trace_outlines(mask: np.ndarray) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    """Outlines of a mask's parts along the edges of their pixels, and for each those of its holes.

    mask: (H, W) bool with something in it. Each outline is (P, 2) integer x, y of corners of pixels.
    """
    x0, y0, width, height = cv2.boundingRect(mask.astype(np.uint8))
    part = mask[y0 : y0 + height, x0 : x0 + width].astype(np.uint8)
    # OpenCV's contours run through the centres of border pixels. Of pixels cut in four, the centres lie
    # a quarter of a pixel inside the edge, so that rounding them moves the contour onto it.
    quarters = part.repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(quarters, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outlines: list[np.ndarray] = []
    holes: list[list[np.ndarray]] = []
    place: dict[int, int] = {}
    for index, contour in enumerate(contours):
        outline = corners((contour[:, 0] + 1) // 2) + (x0, y0)
        parent = hierarchy[0, index, 3]
        if parent < 0:
            place[index] = len(outlines)
            outlines.append(outline)
            holes.append([])
        else:
            holes[place[parent]].append(outline)
    return outlines, holes


def corners(points: np.ndarray) -> np.ndarray:
    """A closed outline of horizontal and vertical steps, (P, 2), without the points at which it goes on."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    return points[(np.sign(before) != np.sign(after)).any(axis=1)]


def join_holes(outline: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """One outline that goes into each hole and back by the same way, which draws nothing twice."""
    for hole in holes:
        start = int(hole[:, 0].argmin())
        entry = int(np.abs(outline - hole[start]).sum(axis=1).argmin())
        around = np.roll(hole, -start, axis=0)
        outline = np.concatenate([outline[: entry + 1], around, around[:1], outline[entry:]])
    return outline
