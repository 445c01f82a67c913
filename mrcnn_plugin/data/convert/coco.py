"""COCO JSON of others -> COCO JSON that loads: merged, completed, with ids that hold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mrcnn_plugin.data.coco_summary import Reader, is_finite, read_json, short
from mrcnn_plugin.errors import DatasetError

from .annotation_set import DEFAULTS, AnnotationSet, Ids, Options, absolute, progress
from .coco_instances import Instance

LISTS = ("images", "annotations", "categories")
REMOVE = "add it or remove the entry"


def read_coco(sources: Sequence[str | os.PathLike], options: Options = DEFAULTS) -> AnnotationSet:
    """Reads one or more COCO JSON files as one.

    Categories are the same where their names are, pictures where their files are, annotations where mask and
    box are; ids are kept where they are free, the first file's first. What is missing of width, height, area,
    bbox, iscrowd and ids is added; all other fields are kept.

    Args:
        sources: each JSON:IMAGE_ROOT, with or without `coco:` before it; without an image root images/ beside
            the JSON where that is, else its folder.
        options: of every reader.

    Raises:
        DatasetError: a file is missing or malformed.
    """
    files = [CocoFile(*split_source(os.fspath(source))) for source in sources]
    roots = [file.root for file in files]
    found = AnnotationSet(Path(os.path.commonpath(roots)) if len(roots) > 1 else roots[0])
    found.image_ids = Ids(1 + max((file.largest_id("images") for file in files), default=0))
    found.annotation_ids = Ids(1 + max((file.largest_id("annotations") for file in files), default=0))
    category_ids = Ids(1 + max((file.largest_id("categories") for file in files), default=0))
    for file in files:
        file.add_to(found, category_ids, options)
    return found.require_pictures('a COCO JSON with "images"')


def split_source(source: str) -> tuple[Path, Path]:
    """JSON file and image root of JSON:IMAGE_ROOT."""
    source = source.removeprefix("coco:")
    json_file, colon, root = source.rpartition(":")
    if colon and root and not Path(source).is_file():
        return absolute(json_file), absolute(root)
    path = absolute(source)
    images = path.parent / "images"
    return path, images if images.is_dir() else path.parent


class CocoFile:
    """One JSON file, parsed, whose images are under `root`."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        content = read_json(path)
        if not isinstance(content, dict):
            raise self.error(f"expected COCO's object of lists, got a {type(content).__name__}")
        self.content = content
        for key in LISTS:
            entries = self.content.get(key)
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise self.error(f'has no list of objects "{key}"; COCO format needs {", ".join(LISTS)}')

    def error(self, message: str) -> DatasetError:
        return DatasetError(f"{self.path}: {message}")

    def largest_id(self, key: str) -> int:
        ids = (as_id(entry.get("id")) for entry in self.content[key])
        return max((own for own in ids if isinstance(own, int)), default=0)

    def add_to(self, found: AnnotationSet, category_ids: Ids, options: Options) -> None:
        for key, value in self.content.items():
            if key not in LISTS:
                found.extra.setdefault(key, value)
        first = len(found.annotations)
        categories = self.add_categories(found, category_ids)
        images = self.add_images(found, options)
        self.add_annotations(found, categories, images, options)
        # What cannot be completed, keypoints that fit no category say, is named as of this file.
        Reader(self.path).summarize(
            {
                "categories": found.categories,
                "images": [image | {"file_name": "-"} for image in found.images],
                "annotations": found.annotations[first:],
            }
        )

    def add_categories(self, found: AnnotationSet, ids: Ids) -> dict[object, int]:
        """Adds those whose names are new; file's category id -> id."""
        names = Counter(str(entry.get("name")) for entry in self.content["categories"])
        known = {category["name"]: category for category in found.categories}
        result: dict[object, int] = {}
        for index, entry in enumerate(self.content["categories"]):
            name, own = entry.get("name"), as_id(entry.get("id"))
            if not isinstance(name, str) or own is None:
                raise self.error(f'categories[{index}] needs an "id" and a "name"; {REMOVE}')
            if names[name] > 1 or own in result:
                what = f"are called {name!r}" if names[name] > 1 else f"have the id {own}"
                raise self.error(f"two categories {what}; rename or remove one of them")
            if name not in known:
                known[name] = entry | {"id": ids.take(own)}
                found.categories.append(known[name])
            complete(known[name], entry)
            result[own] = known[name]["id"]
            if result[own] != own:
                found.notes["categories with another id than in their file"].append(
                    f"{self.path} {name!r} {own} -> {result[own]}"
                )
        return result

    def add_images(self, found: AnnotationSet, options: Options) -> dict[object, tuple | None]:
        """Adds the images; file's image id -> (id, turn of its annotations), None for one left out."""
        result: dict[object, tuple | None] = {}
        for index, entry in enumerate(progress(self.content["images"], f"reading {self.path.name}")):
            own, name = as_id(entry.get("id")), entry.get("file_name")
            if own is None or not isinstance(name, str) or not name:
                raise self.error(f'images[{index}] needs an "id" and a "file_name"; {REMOVE}')
            if own in result:
                raise self.error(f"two images have the id {own}; number them anew, with their annotations")
            result[own] = None
            picture = found.read_picture(absolute(self.root / name), options)
            if picture is None:
                continue
            image_id = found.add_picture(picture, entry | {"id": own})
            width, height = entry.get("width"), entry.get("height")
            size = (int(width), int(height)) if is_finite(width) and is_finite(height) else None
            turn = found.turn_of(picture, size, options, f"{self.path} image {own}")
            result[own] = image_id, turn
        return result

    def add_annotations(self, found: AnnotationSet, categories: dict, images: dict, options: Options) -> None:
        repeated = RepeatedAnnotations(found)
        for index, entry in enumerate(progress(self.content["annotations"], "reading annotations")):
            where = f"{self.path} annotation {entry.get('id', f'[{index}]')}"
            image, category = as_id(entry.get("image_id")), as_id(entry.get("category_id"))
            if image not in images:
                found.skipped["annotations of images that are not listed"].append(where)
                continue
            if category not in categories:
                raise DatasetError(
                    f'{where}: category_id {short(category)} is not in "categories"; '
                    "add that category or correct the annotation"
                )
            if images[image] is None:
                found.skipped["annotations of pictures that were left out"].append(where)
                continue
            image_id, turn = images[image]
            instance = Instance(entry, where, found.pictures[image_id], turn, found, options)
            fields = instance.fields()
            if fields is None or repeated.holds(image_id, categories[category], fields, where):
                continue
            found.add_instance(image_id, categories[category], fields | {"id": as_id(entry.get("id"))}, where)


def complete(entry: dict, other: dict) -> None:
    """Adds what only the other entry of the same thing has: keypoints, beside instances in another file."""
    for key, value in other.items():
        entry.setdefault(key, value)


class RepeatedAnnotations:
    """Annotations that former files had already, of pictures that both list."""

    def __init__(self, found: AnnotationSet) -> None:
        self.found = found
        self.former = {
            self.key(entry["image_id"], entry["category_id"], entry): entry for entry in found.annotations
        }

    @staticmethod
    def key(image_id: int, category_id: int, fields: dict) -> tuple:
        return image_id, category_id, hashable(fields.get("bbox")), hashable(fields.get("segmentation"))

    def holds(self, image_id: int, category_id: int, fields: dict, where: str) -> bool:
        """Whether there is one of the same mask and box, which then gets the fields that it lacks."""
        former = self.former.get(self.key(image_id, category_id, fields))
        if former is None:
            return False
        complete(former, fields)
        self.found.notes["annotations that an earlier file has as well, taken together"].append(where)
        return True


def hashable(value: object) -> object:
    """JSON's lists and objects as tuples, in which 0 and 0.0 are the same."""
    if isinstance(value, dict):
        return tuple((key, hashable(inner)) for key, inner in sorted(value.items()))
    return tuple(map(hashable, value)) if isinstance(value, list) else value


def as_id(value: object) -> int | str | None:
    """An integer also where it is written as text or as 5.0; other text as it is; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return value if isinstance(value, (int, str)) else None
