"""LabelMe's folders: a JSON file beside each picture (https://github.com/wkentaro/labelme).

    {"shapes": [{"label", "points", "shape_type", "group_id", "mask"}, ...],
     "imagePath", "imageData", "imageHeight", "imageWidth"}

Points are continuous x, y in pixels. Of the same label, shapes with one group_id are parts of one instance.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from PIL import Image

from mrcnn_plugin.data.coco_summary import read_json
from mrcnn_plugin.data.images import IMAGE_ERRORS
from mrcnn_plugin.errors import DatasetError

from .annotation_set import DEFAULTS, AnnotationSet, Options, absolute, named_categories, progress
from .masks import decode_segmentation, reaches_far, segment_mask, segment_polygons
from .pictures import Picture, Turn, list_files, list_pictures, one_line, require_folder

LAYOUT = "pictures and LabelMe's JSON files"
#: A circle's polygon stays within this many pixels of it.
CIRCLE_ERROR = 0.05
#: Labels that LabelMe's own tools take for no object.
NO_OBJECT = ("__ignore__", "_background_")


@dataclass
class Part:
    """A shape: a polygon, (P, 2) x, y in pixels, or a mask, (H, W) bool."""

    polygon: np.ndarray | None = None
    mask: np.ndarray | None = None

    def turned(self, turn: Turn | None) -> Part:
        if turn is None:
            return self
        if self.polygon is not None:
            return Part(polygon=turn.points(self.polygon))
        return Part(mask=None if self.mask is None else turn.mask(self.mask))


def read_labelme(source: str | os.PathLike, options: Options = DEFAULTS) -> AnnotationSet:
    """Reads a folder of LabelMe's JSON files, and its subfolders.

    Polygons, rectangles, circles and masks are taken; points and lines have no area and are left out. A
    picture is the file imagePath, or imageData where there is none. Classes are `options.classes`, or the
    labels in the order of the alphabet, with ids from 1.

    Raises:
        DatasetError: a file is missing or malformed.
    """
    root = require_folder(absolute(source), f"expected {LAYOUT}")
    found = AnnotationSet(root)
    instances = []
    for path in progress(list_files(root, is_annotation), f"reading {root.name}"):
        content = read_json(path)
        if not isinstance(content, dict) or "shapes" not in content:
            found.skipped["JSON files without shapes, not LabelMe's"].append(str(path))
            continue
        file = LabelMeFile(path, content)
        added = file.add_picture(found, options)
        if added is not None:
            instances += file.instances(*added, found, options)
    used = {absolute(picture.path) for picture in found.pictures.values()}
    others = (path for path in list_pictures(root) if path not in used)
    found.leave_out("pictures without a JSON file, not annotated", others)
    add_instances(instances, found, options)
    return found.require_pictures(LAYOUT)


def add_instances(instances: list[tuple], found: AnnotationSet, options: Options) -> None:
    """Adds (image id, label, fields, name) of all files, once their labels are known."""
    names = list(options.classes) or sorted({label for _, label, _, _ in instances})
    found.categories = named_categories(names)
    ids = {category["name"]: category["id"] for category in found.categories}
    for image_id, label, fields, name in instances:
        if label not in ids:
            raise DatasetError(f"{name}: not one of the --classes {', '.join(names)}; add it there")
        found.add_instance(image_id, ids[label], fields, name)


def is_annotation(name: str) -> bool:
    return name.lower().endswith(".json") and not name.startswith(".")


class LabelMeFile:
    """One JSON file, parsed."""

    def __init__(self, path: Path, content: dict) -> None:
        self.path, self.content = path, content

    def error(self, message: str) -> DatasetError:
        return DatasetError(f"{self.path}: {message}")

    def add_picture(self, found: AnnotationSet, options: Options) -> tuple[int, Turn | None] | None:
        """Adds the picture that it annotates; its id and what makes the annotations upright."""
        path = self.image_path()
        embedded = self.embedded() if not path.is_file() else None
        if embedded is not None:
            with self.opened(embedded, "imageData") as image:
                path = self.path.with_suffix(f".{image.format.lower()}")
        picture = found.read_picture(path, options, embedded)
        if picture is None:
            return None
        image_id = found.add_picture(picture)
        if embedded is not None:
            found.contents[image_id] = self.read_embedded
        return image_id, found.turn_of(picture, self.size(), options, self.path)

    def read_embedded(self) -> bytes:
        content = read_json(self.path)
        embedded = LabelMeFile(self.path, content).embedded() if isinstance(content, dict) else None
        if embedded is None:
            raise self.error("has lost its imageData since it was read; convert again")
        return embedded

    def image_path(self) -> Path:
        """imagePath, relative to the JSON file, also as Windows writes it."""
        given = self.content.get("imagePath")
        if not isinstance(given, str) or not given:
            raise self.error('has no "imagePath"; save it with LabelMe')
        path = absolute(self.path.parent / PureWindowsPath(given).as_posix())
        beside = self.path.parent / path.name
        return beside if beside.is_file() and not path.is_file() else path

    def embedded(self) -> bytes | None:
        data = self.content.get("imageData")
        return self.decoded(data, "imageData") if data else None

    def decoded(self, data: object, what: str) -> bytes:
        if not isinstance(data, str):
            raise self.error(f"{what} is not base64 (a {type(data).__name__}); save it with LabelMe")
        try:
            return base64.b64decode(data, validate=True)
        except (TypeError, ValueError, binascii.Error) as error:
            raise self.error(f"{what} is not base64 ({one_line(error)}); save it with LabelMe") from error

    def opened(self, content: bytes, what: str) -> Image.Image:
        try:
            return Image.open(io.BytesIO(content))
        except IMAGE_ERRORS as error:
            raise self.error(f"{what} holds no picture; save it with LabelMe") from error

    def size(self) -> tuple[int, int] | None:
        width, height = self.content.get("imageWidth"), self.content.get("imageHeight")
        return (width, height) if isinstance(width, int) and isinstance(height, int) else None

    def instances(
        self, image_id: int, turn: Turn | None, found: AnnotationSet, options: Options
    ) -> list[tuple[int, str, dict | None, str]]:
        """(image id, label, fields, name) of its instances, shapes of one group taken together."""
        picture = found.pictures[image_id]
        groups: dict[tuple, list[Part]] = defaultdict(list)
        labels: dict[tuple, str] = {}
        shapes = self.content["shapes"]
        if not isinstance(shapes, list):
            raise self.error(f'"shapes" must be a list, got a {type(shapes).__name__}; save it with LabelMe')
        for number, shape in enumerate(shapes):
            part = self.part(number, shape, picture if turn is None else turn_back(picture), found)
            if part is None:
                continue
            label, group = shape["label"], shape.get("group_id")
            if not isinstance(group, (int, str, type(None))):
                raise self.error(f"shapes[{number}] {label!r} has no group_id of a number; set it in LabelMe")
            key = (label, number, None) if group is None else (label, None, group)
            groups[key].append(part.turned(turn))
            labels.setdefault(key, f"{self.path} shapes[{number}] {label!r}")
        return [
            (image_id, key[0], segment_parts(parts, picture, options.masks), labels[key])
            for key, parts in groups.items()
        ]

    def part(self, number: int, shape: object, frame: Picture, found: AnnotationSet) -> Part | None:
        """A shape in the annotated picture's frame; None, with a name in `skipped`, if it has no area."""
        where = f"shapes[{number}]"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise self.error(f'{where} has no "label"; name it in LabelMe')
        where = f"{where} {shape['label']!r}"
        if shape["label"] in NO_OBJECT:
            found.skipped["shapes labelled as no object"].append(f"{self.path} {where}")
            return None
        kind = shape.get("shape_type") or "polygon"
        points = self.points(shape.get("points"), where)
        if reaches_far(points, frame.height, frame.width):
            raise self.error(f"{where} lies far outside of the picture; draw it anew in LabelMe")
        if kind == "mask":
            return Part(mask=self.mask(shape.get("mask"), points, where, frame))
        if kind == "polygon" and len(points) >= 3:
            return Part(polygon=points)
        if kind == "rectangle" and len(points) in (2, 4):
            return Part(polygon=rectangle(points))
        if kind == "circle" and len(points) == 2:
            return Part(polygon=circle(*points))
        if kind in ("polygon", "rectangle", "circle"):
            raise self.error(f"{where} is a {kind} of {len(points)} points; draw it anew in LabelMe")
        found.skipped[f"shapes of type {kind}, which have no area"].append(f"{self.path} {where}")
        return None

    def points(self, points: object, where: str) -> np.ndarray:
        """(P, 2) float64."""
        try:
            array = np.array(points, np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.empty(0)
        if array.ndim != 2 or array.shape[1] != 2 or not np.isfinite(array).all():
            raise self.error(f'{where} has no "points" [[x, y], ...]; draw it anew in LabelMe')
        return array

    def mask(self, data: object, points: np.ndarray, where: str, frame: Picture) -> np.ndarray:
        """(H, W) bool from a PNG in base64 of the region whose corners, both inside it, are `points`."""
        what = f"the mask of {where}"
        with self.opened(self.decoded(data, what), what) as image:
            try:
                part = np.asarray(image)
            except IMAGE_ERRORS as error:
                raise self.error(
                    f"{what} cannot be read ({one_line(error)}); draw it anew in LabelMe"
                ) from error
        (x0, y0), (x1, y1) = points[0].astype(int), points[-1].astype(int)
        if part.shape != (y1 - y0 + 1, x1 - x0 + 1):
            raise self.error(
                f"the mask of {where} is {part.shape[-1]} x {part.shape[0]}, but its points span "
                f"{x1 - x0 + 1} x {y1 - y0 + 1}; draw it anew in LabelMe"
            )
        if x0 < 0 or y0 < 0 or x1 >= frame.width or y1 >= frame.height:
            raise self.error(f"the mask of {where} reaches out of the picture; draw it anew in LabelMe")
        mask = np.zeros((frame.height, frame.width), bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = part != 0
        return mask


def turn_back(picture: Picture) -> Picture:
    """The picture as it is stored."""
    return Picture(picture.path, *picture.stored_size)


def segment_parts(parts: list[Part], picture: Picture, form: str) -> dict | None:
    """COCO's fields of an instance of one or more shapes."""
    polygons = [part.polygon for part in parts if part.polygon is not None]
    masks = [part.mask for part in parts if part.mask is not None]
    if not masks:
        return segment_polygons(polygons, picture.height, picture.width, form)
    if polygons:
        flat = [polygon.ravel().tolist() for polygon in polygons]
        masks.append(decode_segmentation(flat, picture.height, picture.width))
    return segment_mask(np.logical_or.reduce(masks), form)


def rectangle(points: np.ndarray) -> np.ndarray:
    """(4, 2) corners from two opposite ones, or from all four."""
    if len(points) == 4:
        return points
    (x0, y0), (x1, y1) = points
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def circle(centre: np.ndarray, rim: np.ndarray) -> np.ndarray:
    """(P, 2) from the centre and a point on it, a regular polygon of the circle's area."""
    radius = math.dist(centre, rim)
    steps = max(12, math.ceil(math.pi / math.acos(1 - min(CIRCLE_ERROR / max(radius, 1e-9), 1))))
    angles = 2 * math.pi * np.arange(steps) / steps
    reach = radius * math.sqrt(2 * math.pi / (steps * math.sin(2 * math.pi / steps)))
    return centre + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
