"""COCO's RLE taken apart and put together by its runs, so that large pictures never become bitmasks.

An RLE counts pixels down the columns, zeros first. A segment is the part of a run of ones that lies in one
column.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util


class Segments(NamedTuple):
    """The foreground of a mask, (S,) int64 each: column x holds the rows from top up to, not with, bottom."""

    x: np.ndarray
    top: np.ndarray
    bottom: np.ndarray


def run_lengths(rle: dict[str, Any]) -> np.ndarray:
    """(R,) int64 pixels of each run, zeros first, of a compressed or uncompressed COCO RLE dict.

    The compressed form is pycocotools' (rleToString): groups of five bits, lowest first, sixth bit set where
    another follows; from the fourth number on, the difference from the number two before.
    """
    counts = rle["counts"]
    if isinstance(counts, list):
        return np.asarray(counts, dtype=np.int64)
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((groups & 0x20) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    place = np.arange(len(groups)) - np.repeat(starts, sizes)
    runs = np.add.reduceat((groups & 0x1F) << (5 * place), starts)
    negative = (groups[ends] & 0x10) != 0
    runs -= np.where(negative, np.int64(1) << (5 * sizes), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def segments(rle: dict[str, Any]) -> Segments:
    """The foreground of a COCO RLE dict, by columns from left to right."""
    height = rle["size"][0]
    edges = np.cumsum(run_lengths(rle))
    start, end = edges[0:-1:2], edges[1::2]
    start, end = start[end > start], end[end > start]
    first = start // height
    columns = (end - 1) // height - first + 1
    step = np.arange(columns.sum()) - np.repeat(np.cumsum(columns) - columns, columns)
    x = np.repeat(first, columns) + step
    top = np.maximum(np.repeat(start, columns) - x * height, 0)
    bottom = np.minimum(np.repeat(end, columns) - x * height, height)
    return Segments(x, top, bottom)


def from_segments(parts: Segments, height: int, width: int) -> dict[str, Any]:
    """The compressed RLE of segments that do not overlap, ordered by column and row."""
    start, end = parts.x * height + parts.top, parts.x * height + parts.bottom
    # A segment that goes on where the one before ends, at the bottom of a column, is one run with it.
    new = np.concatenate([[True], start[1:] > end[:-1]]) if len(start) else np.zeros(0, bool)
    last = np.concatenate([new[1:], [True]]) if len(start) else new
    edges = np.stack([start[new], end[last]], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    if counts[-1] == 0 and len(edges):
        # As pycocotools encodes it: no run of zeros after a mask that ends with the picture.
        counts = counts[:-1]
    return mask_util.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


def moved(rle: dict[str, Any], x: int, y: int, height: int, width: int) -> dict[str, Any]:
    """A mask of a part of a picture as a mask of the whole.

    Args:
        rle: of the part.
        x, y: pixels between the left and upper edges of the picture and those of the part, which lies within.
        height, width: of the picture.

    Returns:
        A compressed RLE dict of size [height, width].
    """
    part_height, part_width = rle["size"]
    if not (0 <= x <= width - part_width and 0 <= y <= height - part_height):
        raise ValueError(
            f"a part of {part_height} x {part_width} pixels at x = {x}, y = {y} is not within "
            f"{height} x {width}"
        )
    parts = segments(rle)
    return from_segments(Segments(parts.x + x, parts.top + y, parts.bottom + y), height, width)


def cropped(rle: dict[str, Any]) -> tuple[np.ndarray, int, int]:
    """The smallest rectangle that holds a mask's foreground.

    Returns:
        (h, w) bool, and the x and y of its first pixel in the mask; (0, 0) of shape for an empty mask.
    """
    parts = segments(rle)
    if not len(parts.x):
        return np.zeros((0, 0), bool), 0, 0
    x, y = int(parts.x[0]), int(parts.top.min())
    width, height = int(parts.x[-1]) - x + 1, int(parts.bottom.max()) - y
    steps = np.zeros((width, height + 1), np.int8)
    np.add.at(steps, (parts.x - x, parts.top - y), 1)
    np.add.at(steps, (parts.x - x, parts.bottom - y), -1)
    return np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].T.astype(bool), x, y
