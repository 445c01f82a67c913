"""Pictures too large for the network, or with objects too small for it, by tiles that overlap.

Each tile is predicted as a picture of its own. An object in two tiles is found twice, one that a tile's edge
cuts in parts. Both are recognised where two tiles look at the same pixels: there the masks agree.
What one tile shows whole is kept from that tile; the parts of what none shows whole become the union of their
masks. All of that is done on RLEs: no mask of the picture's size is ever held as pixels.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageOps
from pycocotools import mask as mask_util
from torch import Tensor
from tqdm import tqdm

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import RLEMasks
from mrcnn_plugin.modeling.rle_runs import moved

from .predictor import Predictor
from .reading_ahead import ahead

#: Of two views of one class in the pixels that both tiles show, the IoU from which they are one object.
_SAME = 0.5
#: Part of a cut view that lies in another view, from which the other one explains it.
_CONTAINED = 0.7
# Exif's tag for how a picture is to be turned.
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class TileSize:
    """side of the square tiles and least overlap of neighbours, in pixels."""

    side: int
    overlap: int

    def __post_init__(self) -> None:
        if self.side < 32:
            raise ConfigError(f"--tile must be at least 32 pixels, got {self.side}")
        if not 1 <= self.overlap < self.side:
            raise ConfigError(
                f"--overlap must be at least 1 pixel and less than --tile {self.side}, got {self.overlap}"
            )

    def starts(self, length: int) -> list[int]:
        """Where the tiles along a side of the picture begin, evenly spaced; the last ends with it."""
        if length <= self.side:
            return [0]
        count = -(-(length - self.overlap) // (self.side - self.overlap))
        return [round(index * (length - self.side) / (count - 1)) for index in range(count)]

    def grid(self, height: int, width: int) -> np.ndarray:
        """(T, 4) int64 xyxy of the tiles, row by row."""
        rows, columns = self.starts(height), self.starts(width)
        bottom, right = min(self.side, height), min(self.side, width)
        return np.array([(x, y, x + right, y + bottom) for y in rows for x in columns])


@dataclass(frozen=True)
class TiledImage:
    """A decoded picture, RGB, of which only tiles become arrays; and (T, 4) its tiles."""

    image: Image.Image
    grid: np.ndarray

    @classmethod
    def open(cls, path: str, tile: TileSize) -> TiledImage:
        """Decodes a file; four bytes a pixel is what it takes of memory.

        Raises:
            OSError, ValueError, SyntaxError: the file is not an image.
            PIL.Image.DecompressionBombError: it would take more than half of the machine's memory.
        """
        allowed, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(path) as image:
                _check_memory(*image.size)
                image.load()
                if image.getexif().get(_ORIENTATION, 1) != 1:
                    # Called always, it would copy a picture that needs no turning.
                    image = ImageOps.exif_transpose(image)
        finally:
            Image.MAX_IMAGE_PIXELS = allowed
        image = image if image.mode == "RGB" else image.convert("RGB")
        return cls(image, tile.grid(image.height, image.width))


def _check_memory(width: int, height: int) -> None:
    # Four bytes for the picture and three for its overlay.
    needed, memory = 7 * width * height, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory / 2:
        raise Image.DecompressionBombError(
            f"{width} x {height} pixels take {needed / 2**30:.1f} GiB, over half of this machine's memory"
        )


def detect_tiled(
    predictor: Predictor, image: TiledImage, readers: Executor, batch: int, *, progress: bool = False
) -> Instances:
    """The instances of a picture by its tiles; as `Predictor.detect`, but always with `pred_masks_rle`.

    Args:
        readers: threads that prepare tiles while others are in the network.
        batch: tiles in one run of the network.
        progress: whether to show a bar of the tiles.
    """
    found: list[Instances] = []
    tile_of: list[int] = []
    indices = list(range(len(image.grid)))
    batches = (indices[start : start + batch] for start in range(0, len(indices), batch))

    def prepare(index: int) -> dict:
        return predictor.model_input(image.image.crop(tuple(image.grid[index].tolist())))

    size = image.image.height, image.image.width
    show = None if progress and len(indices) > batch else True
    with tqdm(total=len(indices), desc="tiles", leave=False, file=sys.stderr, disable=show) as bar:
        for chunk, inputs in ahead(prepare, batches, readers, depth=2):
            for index, instances in zip(chunk, predictor.detect(inputs)):
                found.append(in_picture(instances, image.grid[index], size))
                tile_of += [index] * len(instances)
            bar.update(len(chunk))
    return merge_tiles(joined(found), np.array(tile_of, dtype=np.int64), image.grid)


def in_picture(instances: Instances, tile: np.ndarray, size: tuple[int, int]) -> Instances:
    """A tile's instances in the coordinates of the picture of size (height, width); masks become RLEs."""
    x, y = int(tile[0]), int(tile[1])
    result = Instances(size)
    for name, value in instances.get_fields().items():
        if name == "pred_boxes":
            result.pred_boxes = Boxes(value.tensor + value.tensor.new_tensor([x, y, x, y]))
        elif name == "pred_keypoints":
            result.pred_keypoints = value + value.new_tensor([x, y, 0])
        elif name in ("pred_masks_rle", "pred_masks"):
            rles = value if name == "pred_masks_rle" else map(_encoded, value)
            result.pred_masks_rle = RLEMasks(moved(rle, x, y, *size) for rle in rles)
        elif name != "pred_keypoint_heatmaps":
            result.set(name, value)
    return result


def _encoded(mask: Tensor) -> dict[str, Any]:
    return mask_util.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))


def joined(parts: Sequence[Instances]) -> Instances:
    """The instances of several tiles as one; at least one tile."""
    result = Instances.cat(list(parts))
    if result.has("pred_masks_rle"):
        result.pred_masks_rle = RLEMasks(result.pred_masks_rle)
    return result


class _Views:
    """What the tiles have found, and how far two of them are views of one object."""

    def __init__(self, instances: Instances, tile_of: np.ndarray, grid: np.ndarray) -> None:
        self.boxes = instances.pred_boxes.tensor.numpy().astype(np.float64)
        self.classes = instances.pred_classes.numpy()
        self.tiles = grid[tile_of]
        self.tile_of = tile_of
        self.size = instances.image_size
        self.masks = instances.pred_masks_rle if instances.has("pred_masks_rle") else None
        self.cut = self._touch_inner_edges(grid)

    def _touch_inner_edges(self, grid: np.ndarray) -> np.ndarray:
        """(V,) bool: the box ends at an edge of its tile at which the picture goes on.

        A predicted box may end a little before the edge that cuts its object. To take a whole object for a
        cut one does no harm: the union with its other views is the object.
        """
        height, width = self.size
        side = (grid[:, 2:] - grid[:, :2]).max()
        margin = max(4.0, side / 50)
        near = np.abs(self.boxes - self.tiles) <= margin
        inner = self.tiles != np.array([0, 0, width, height])
        return (near & inner).any(axis=1)

    def neighbours(self, index: int) -> Iterator[int]:
        """Views of other tiles whose boxes meet this one's in the pixels that both tiles show."""
        low = np.maximum.reduce([self.boxes[:, :2], self.tiles[:, :2]])
        high = np.minimum.reduce([self.boxes[:, 2:], self.tiles[:, 2:]])
        low = np.maximum(low, np.maximum(self.boxes[index, :2], self.tiles[index, :2]))
        high = np.minimum(high, np.minimum(self.boxes[index, 2:], self.tiles[index, 2:]))
        meet = (high > low).all(axis=1) & (self.tile_of != self.tile_of[index])
        yield from np.flatnonzero(meet).tolist()

    def _shared(self, first: int, second: int) -> np.ndarray:
        low = np.maximum(self.tiles[first, :2], self.tiles[second, :2])
        high = np.minimum(self.tiles[first, 2:], self.tiles[second, 2:])
        return np.concatenate([low, high])

    def areas(self, first: int, second: int) -> tuple[float, float, float]:
        """Pixels of either and of both, in what both tiles show."""
        window = self._shared(first, second)
        if self.masks is None:
            boxes = [_clipped(self.boxes[index], window) for index in (first, second)]
            return _area(boxes[0]), _area(boxes[1]), _area(_clipped(boxes[0], boxes[1]))
        pieces = [_within(self.masks[index], window) for index in (first, second)]
        both = mask_util.merge(pieces, intersect=True)
        one, other, shared = (float(mask_util.area(rle)) for rle in (*pieces, both))
        return one, other, shared

    def same(self, first: int, second: int) -> bool:
        """Whether two views show one object."""
        if self.classes[first] != self.classes[second]:
            return False
        one, other, both = self.areas(first, second)
        if both == 0:
            return False
        if both >= _SAME * (one + other - both):
            return True
        # The rest that a tile's edge leaves of an object is often found as a part of it only.
        cut = min(one if self.cut[first] else np.inf, other if self.cut[second] else np.inf)
        return both >= _CONTAINED * cut

    def explains(self, whole: int, cut: int) -> bool:
        """Whether an object that one tile shows whole is what another one has cut, of any class."""
        if self.same(whole, cut):
            return True
        if self.masks is None:
            both, area = _area(_clipped(self.boxes[whole], self.boxes[cut])), _area(self.boxes[cut])
        else:
            rles = [self.masks[whole], self.masks[cut]]
            both, area = mask_util.area(mask_util.merge(rles, intersect=True)), mask_util.area(rles[1])
        return both > 0 and both >= _CONTAINED * area


def _clipped(box: np.ndarray, window: np.ndarray) -> np.ndarray:
    return np.concatenate([np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])])


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0)))


def _within(rle: dict[str, Any], window: np.ndarray) -> dict[str, Any]:
    """The part of a mask in a window, int xyxy."""
    height, width = rle["size"]
    x0, y0, x1, y1 = window.tolist()
    corners = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return mask_util.merge([rle, mask_util.frPyObjects(corners, height, width)[0]], intersect=True)


def merge_tiles(instances: Instances, tile_of: np.ndarray, grid: np.ndarray) -> Instances:
    """Leaves one instance of each object that several tiles have found.

    Args:
        instances: V of all tiles, in the picture's coordinates, on the CPU.
        tile_of: (V,) int64 rows of `grid`.
        grid: (T, 4) int64 xyxy of the tiles.

    Returns:
        By falling scores. A union has the fields of its best part, the box around all of them, and of each
        keypoint the surest.
    """
    views = _Views(instances, tile_of, grid)
    order = np.argsort(-instances.scores.numpy(), kind="stable").tolist()
    whole: set[int] = set()
    for index in order:
        if not views.cut[index]:
            rivals = whole.intersection(views.neighbours(index))
            if not any(views.same(rival, index) for rival in rivals):
                whole.add(index)
    parts = [
        index
        for index in order
        if views.cut[index]
        and not any(views.explains(rival, index) for rival in whole.intersection(views.neighbours(index)))
    ]
    groups = [[index] for index in whole] + _groups(views, parts)
    rank = {index: place for place, index in enumerate(order)}
    groups.sort(key=lambda group: rank[group[0]])
    return _unions(instances, groups)


def _groups(views: _Views, parts: Sequence[int]) -> list[list[int]]:
    """Parts of one object each, the surest first: those that are the same, directly or through others."""
    leader = {part: part for part in parts}

    def find(part: int) -> int:
        while leader[part] != part:
            part = leader[part]
        return part

    for part in parts:
        for other in views.neighbours(part):
            if other < part and other in leader and find(other) != find(part) and views.same(other, part):
                leader[find(other)] = find(part)
    groups: dict[int, list[int]] = {}
    for part in parts:
        groups.setdefault(find(part), []).append(part)
    return list(groups.values())


def _unions(instances: Instances, groups: Sequence[Sequence[int]]) -> Instances:
    result = instances[torch.tensor([group[0] for group in groups], dtype=torch.int64)]
    boxes = result.pred_boxes.tensor
    for row, group in enumerate(groups):
        if len(group) == 1:
            continue
        members = torch.tensor(group)
        every = instances.pred_boxes.tensor[members]
        boxes[row] = torch.cat([every[:, :2].amin(0), every[:, 2:].amax(0)])
        if instances.has("pred_masks_rle"):
            masks = [instances.pred_masks_rle[index] for index in group]
            result.pred_masks_rle[row] = mask_util.merge(masks)
        if instances.has("pred_keypoints"):
            points = instances.pred_keypoints[members]
            surest = points[:, :, 2].argmax(dim=0)
            result.pred_keypoints[row] = points[surest, torch.arange(points.shape[1])]
    return result
