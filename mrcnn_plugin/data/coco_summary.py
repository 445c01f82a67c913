"""What a COCO-format annotation file holds, found in one pass over it and kept for the next start.

Whatever would make training stop later is raised here as a DatasetError of one line: the file, what is
wrong, how to fix it. What Detectron2 merely skips is counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeGuard

import numpy as np

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.cache_folder import default_cache_dir
from mrcnn_plugin.errors import DatasetError, first_line

logger = logging.getLogger(__name__)

# Raised when a summary counts something else than before, so that those kept are made again.
VERSION = 2
# Of the quantiles that a summary keeps: 0, 5, ..., 100%.
QUANTILES = tuple(i / 20 for i in range(21))
COCO_KEYPOINTS = 17
# Summaries that stay in the cache folder.
KEPT = 500
#: The mean of COCO's 17 sigmas, for keypoints of which none is known.
DEFAULT_OKS_SIGMA = 0.067
CATEGORY_KEYS = ("id", "name", "keypoints", "skeleton", "keypoint_sigmas")
TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("id", "image_id", "category_id"), (int, "an integer")),
    **dict.fromkeys(("width", "height"), ((int, float), "a number")),
    **dict.fromkeys(("name", "file_name", "coco_url"), (str, "text")),
}


@dataclass
class ClassCounts:
    """Of one category: images it appears in, instances, crowd regions, labelled keypoints."""

    images: int = 0
    instances: int = 0
    crowd: int = 0
    keypoints: int = 0


@dataclass
class CocoSummary:
    """Counts over an annotation file.

    categories: COCO's entries in the order of their ids; classes: counts of each; files: image names by
    folder, relative to the image root; annotated: False for the image lists of test sets; empty_images: no
    annotation at all; degenerate_boxes: without area, or outside the image; short_polygons: of fewer than 3
    points; no_mask, rle_mask, no_keypoints: instances (crowds left out) without segmentation, with RLE
    instead of polygons, without a `keypoints` entry; orphans: annotations of images that are not listed;
    densest: instances of the image that has most of them; short_edges, aspect_ratios: QUANTILES of the
    images' shorter sides in pixels and of longer / shorter side; relative_sizes: of sqrt(box area) / shorter
    side of its image. Crowds count for none of these.
    """

    categories: list[dict]
    classes: list[ClassCounts]
    images: int = 0
    annotated: bool = True
    empty_images: int = 0
    degenerate_boxes: int = 0
    short_polygons: int = 0
    no_mask: int = 0
    rle_mask: int = 0
    no_keypoints: int = 0
    orphans: int = 0
    densest: int = 0
    short_edges: list[float] = field(default_factory=list)
    aspect_ratios: list[float] = field(default_factory=list)
    relative_sizes: list[float] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def instances(self) -> int:
        return sum(counts.instances for counts in self.classes)

    @property
    def crowd(self) -> int:
        return sum(counts.crowd for counts in self.classes)

    @property
    def keypoints(self) -> int:
        return sum(counts.keypoints for counts in self.classes)

    @property
    def class_names(self) -> list[str]:
        return [category["name"] for category in self.categories]


def summarize(
    json_file: str | os.PathLike, cache_dir: str | os.PathLike | None = None, *, lvis: bool = False
) -> CocoSummary:
    """Summary of an annotation file; an unchanged file (path, size, time) is read only once.

    Args:
        json_file: in COCO's format.
        cache_dir: where summaries are kept, `default_cache_dir()` when None; where it cannot be written,
            nothing is kept.
        lvis: images are named by the end of their `coco_url`, as in LVIS.

    Raises:
        DatasetError: the file is missing or malformed.
    """
    path = Path(json_file)
    try:
        stat = path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: no such annotation file ({error.strerror})") from error
    key = f"{VERSION}|{lvis}|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    cached = folder / f"coco-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    summary = read_cached(cached)
    if summary is None:
        logger.info("Checking %s (%.0f MB), once as long as it does not change", path, stat.st_size / 1e6)
        summary = Reader(path, lvis).summarize(read_json(path))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(cached, json.dumps(asdict(summary)).encode())
            forget_oldest(folder)
        except OSError as error:
            logger.debug("Summary of %s not kept: %s", path, error)
    return summary


def forget_oldest(folder: Path) -> None:
    """Leaves the newest summaries: a file that is written again and again would fill the folder."""
    times = {}
    for path in folder.glob("coco-*.json"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies up too
            times[path] = path.stat().st_mtime_ns
    for path in sorted(times, key=times.__getitem__)[:-KEPT]:
        path.unlink(missing_ok=True)


def read_cached(path: Path) -> CocoSummary | None:
    try:
        values = json.loads(path.read_bytes())
        return CocoSummary(**values | {"classes": [ClassCounts(**counts) for counts in values["classes"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_json(path: Path) -> object:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise DatasetError(
            f"{place}: malformed JSON ({error.msg}); fix that line, or copy the file anew if cut short"
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path}: not UTF-8 text (byte {error.start}); annotations must be a JSON file, unpacked"
        ) from error
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, lists in lists in lists.
        raise DatasetError(f"{path}: its JSON cannot be read ({first_line(error)}); make it anew") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from error


class Reader:
    """One pass over the parsed JSON of `path`."""

    def __init__(self, path: Path, lvis: bool = False) -> None:
        self.path, self.lvis = path, lvis

    def error(self, message: str) -> DatasetError:
        return DatasetError(f"{self.path}: {message}")

    def summarize(self, dataset: object) -> CocoSummary:
        if not isinstance(dataset, dict):
            raise self.error(
                f"expected COCO's object of lists, got a {type(dataset).__name__} at the top level"
            )
        categories = sorted(self.entries(dataset, "categories", ("id", "name")), key=lambda c: c["id"])
        for category in categories:
            self.check_skeleton(category)
        images = self.entries(dataset, "images", ("id", "width", "height"))
        summary = CocoSummary(
            [{k: c[k] for k in CATEGORY_KEYS if k in c} for c in categories],
            [ClassCounts() for _ in categories],
            images=len(images),
            files=self.files(images),
            annotated="annotations" in dataset,
            short_edges=quantiles([min(i["width"], i["height"]) for i in images]),
            aspect_ratios=quantiles([aspect_ratio(i["width"], i["height"]) for i in images]),
        )
        if summary.annotated:
            keys = ("id", "image_id", "category_id", "bbox")
            self.count(summary, images, self.entries(dataset, "annotations", keys))
        return summary

    def entries(self, dataset: dict, key: str, required: Iterable[str]) -> list[dict]:
        """dataset[key], a list of objects that have `required` and an id of their own."""
        if not isinstance(dataset.get(key), list):
            raise self.error(
                f'has no list "{key}"; COCO format needs "images", "annotations" and "categories"'
            )
        singular = {"categories": "category"}.get(key, key[:-1])
        seen = set()
        for index, entry in enumerate(dataset[key]):
            if not isinstance(entry, dict):
                raise self.error(f"{key}[{index}] is not an object; remove it")
            who = f"{singular} {entry['id']}" if "id" in entry else f"{key}[{index}]"
            for name in required:
                if name not in entry:
                    raise self.error(f'{who} has no "{name}"; add it or remove the {singular}')
            for name in filter(entry.__contains__, TYPES):
                kind, word = TYPES[name]
                if not isinstance(entry[name], kind) or not is_of_64_bits(entry[name]):
                    raise self.error(f'{who} has the "{name}" {short(entry[name])}, expected {word}; fix it')
            if entry["id"] in seen:
                raise self.error(f"two entries of {key} have the id {entry['id']}; number them anew")
            seen.add(entry["id"])
        return dataset[key]

    def check_skeleton(self, category: dict) -> None:
        names, limbs = category.get("keypoints") or [], category.get("skeleton") or []
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise self.error(
                f'category {category["id"]} has the "keypoints" {short(names)}, '
                "expected a list of names; fix it"
            )
        if not (isinstance(limbs, list) and all(map(is_limb, limbs))):
            raise self.error(
                f'category {category["id"]} has the "skeleton" {short(limbs)}, '
                "expected pairs of keypoint numbers [[1, 2], ...]; fix it"
            )

        sigmas = category.get("keypoint_sigmas", [])
        if not (isinstance(sigmas, list) and all(is_finite(sigma) and sigma > 0 for sigma in sigmas)):
            raise self.error(
                f'category {category["id"]} has the "keypoint_sigmas" {short(sigmas)}, '
                "expected one positive number for each keypoint; correct it"
            )

    def files(self, images: list[dict]) -> dict[str, list[str]]:
        folders = defaultdict(list)
        for image in images:
            key = "coco_url" if self.lvis else "file_name"
            if not image.get(key):
                raise self.error(f'image {image["id"]} has no "{key}"; add it or remove the image')
            name = "/".join(image[key].split("/")[-2:]) if self.lvis else image[key]
            folder, base = os.path.split(name)
            folders[folder].append(base)
        return dict(folders)

    def count(self, summary: CocoSummary, images: list[dict], annotations: list[dict]) -> None:
        index = {category["id"]: i for i, category in enumerate(summary.categories)}
        sizes = {image["id"]: (image["width"], image["height"]) for image in images}
        images_of: list[set] = [set() for _ in index]
        filled: set = set()
        instances: Counter = Counter()
        relative_sizes: list[float] = []
        for annotation in annotations:
            if annotation["image_id"] not in sizes:
                summary.orphans += 1
                continue
            if annotation["category_id"] not in index:
                raise self.error(
                    f"annotation {annotation['id']} has category_id {annotation['category_id']}, "
                    'which is not in "categories"; add that category or fix the annotation'
                )
            if annotation.get("ignore"):
                raise self.error(
                    f'annotation {annotation["id"]} has "ignore", which Detectron2 does not know; '
                    'use "iscrowd": 1 for regions to leave out, or remove it'
                )
            which = index[annotation["category_id"]]
            filled.add(annotation["image_id"])
            images_of[which].add(annotation["image_id"])
            image_size = sizes[annotation["image_id"]]
            degenerate = self.is_degenerate(annotation, *image_size)
            summary.degenerate_boxes += degenerate
            self.count_keypoints(summary, which, annotation)
            if annotation.get("iscrowd"):
                summary.classes[which].crowd += 1
            else:
                summary.classes[which].instances += 1
                instances[annotation["image_id"]] += 1
                self.count_mask(summary, annotation)
                if not degenerate:
                    area = annotation["bbox"][2] * annotation["bbox"][3]
                    relative_sizes.append(math.sqrt(area) / min(image_size))
        for counts, found in zip(summary.classes, images_of):
            counts.images = len(found)
        summary.empty_images = len(images) - len(filled)
        summary.densest = max(instances.values(), default=0)
        summary.relative_sizes = quantiles(relative_sizes)

    def is_degenerate(self, annotation: dict, width: float, height: float) -> bool:
        """Whether the box has no area inside the image."""
        box = annotation["bbox"]
        if not (isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))):
            raise self.error(
                f"annotation {annotation['id']} has the bbox {short(box)}, "
                "expected [x, y, width, height]; fix it"
            )
        x, y, w, h = box
        return w <= 0 or h <= 0 or x >= width or y >= height or x + w <= 0 or y + h <= 0

    def count_keypoints(self, summary: CocoSummary, which: int, annotation: dict) -> None:
        keypoints = annotation.get("keypoints")
        if not keypoints:
            summary.no_keypoints += not annotation.get("iscrowd")
            return
        expected = 3 * len(summary.categories[which].get("keypoints") or ())
        if not (isinstance(keypoints, list) and all(map(is_finite, keypoints))):
            raise self.error(
                f"annotation {annotation['id']} has the keypoints {short(keypoints)}, "
                "expected numbers [x, y, visibility, ...]; fix it"
            )
        if len(keypoints) != expected:
            raise self.error(
                f"annotation {annotation['id']} has {len(keypoints)} keypoint numbers, but its category "
                f"{summary.categories[which]['name']!r} names {expected // 3} keypoints; "
                'fix the annotation or the "keypoints" of the category'
            )
        summary.classes[which].keypoints += sum(v > 0 for v in keypoints[2::3])

    def count_mask(self, summary: CocoSummary, annotation: dict) -> None:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            summary.no_mask += 1
        elif isinstance(segmentation, dict):
            summary.rle_mask += 1
        elif isinstance(segmentation, list) and all(map(is_polygon, segmentation)):
            summary.short_polygons += sum(len(p) < 6 or len(p) % 2 == 1 for p in segmentation)
        else:
            raise self.error(
                f"annotation {annotation['id']} has the segmentation {short(segmentation)}, "
                "expected a list of polygons [[x, y, ...], ...] or RLE; fix it"
            )


def quantiles(values: list[float]) -> list[float]:
    """QUANTILES of the values, none where there are no values."""
    return np.quantile(values, QUANTILES).tolist() if values else []


def aspect_ratio(width: float, height: float) -> float:
    """Longer by shorter side, at least 1; of a size that is not one, 1."""
    return max(width, height) / min(width, height) if min(width, height) > 0 else 1.0


def is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a number that a float64 holds."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:
        return False


def is_of_64_bits(value: object) -> bool:
    """Whether a number, finite, is one that NumPy and PyTorch take; True for anything else."""
    return not isinstance(value, (int, float)) or -(2**63) <= value < 2**63


def is_limb(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(end, int) for end in value)


def is_polygon(value: object) -> bool:
    """Whether it is a flat list of coordinates, told by the first."""
    return isinstance(value, list) and (not value or is_finite(value[0]))


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
