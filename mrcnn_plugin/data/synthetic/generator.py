"""Sets of drawn samples on disk in COCO's layout.

    ROOT/shapes/{train,val}/000000.jpg ...
    ROOT/shapes/annotations/instances_{train,val}.json
    ROOT/shapes_keypoints/{train,val}/000000.jpg ...
    ROOT/shapes_keypoints/annotations/person_keypoints_{train,val}.json

The JSON file is written last and records the parameters, so its presence says that the set is complete.
"""

from __future__ import annotations

import json
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from iopath.common.file_io import file_lock
from tqdm import tqdm

from mrcnn_plugin.atomic_files import write_atomically

from .drawing import SHAPES, draw_sample
from .figure import KEYPOINT_NAMES, LIMBS

logger = logging.getLogger(__name__)

# Raised whenever the same parameters draw different pixels or annotations: sets on disk are then redrawn.
VERSION = 1
# A marker in the sets on disk; it keeps the name that the first release wrote.
GENERATOR = "mrcnn_plugin.data.shapes"
KINDS = {"shapes": ("shapes", "instances"), "keypoints": ("shapes_keypoints", "person_keypoints")}
SPLITS = {"train": 2000, "val": 300}
JPEG_QUALITY = 92
IMAGE_NAME = re.compile(r"\d{6}\.jpg(\.\d+\.part)?")


@dataclass(frozen=True)
class SetParameters:
    """What a set is drawn from.

    images: how many (None: 2000 to train, 300 to validate); size: side of the images in pixels.
    """

    kind: str
    split: str
    images: int | None = None
    size: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choice, known in (("kind", self.kind, KINDS), ("split", self.split, SPLITS)):
            if choice not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {choice!r}")
        if self.images is None:
            object.__setattr__(self, "images", SPLITS[self.split])
        for name, value, low, high in (
            ("images", self.count, 1, 999_999),
            ("size", self.size, 32, 4096),
            ("seed", self.seed, 0, 2**63),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, got {value}")

    @property
    def count(self) -> int:
        """`images`, with its default filled in."""
        return SPLITS[self.split] if self.images is None else self.images

    def image_seed(self, index: int) -> np.random.SeedSequence:
        """Each image has its own stream: splits are disjoint and the order of drawing does not matter."""
        streams = list(KINDS).index(self.kind), list(SPLITS).index(self.split), index
        return np.random.SeedSequence([self.seed, *streams])


class SetPaths(NamedTuple):
    json_file: Path
    image_root: Path


def set_paths(root: str | os.PathLike, kind: str, split: str) -> SetPaths:
    """Where a set lies under root."""
    folder, prefix = KINDS[kind]
    base = Path(root, folder)
    return SetPaths(base / "annotations" / f"{prefix}_{split}.json", base / split)


def categories(kind: str) -> list[dict]:
    """COCO's `categories` of a kind of set."""
    if kind == "shapes":
        return [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(SHAPES, 1)]
    skeleton = [[KEYPOINT_NAMES.index(end) + 1 for end in limb] for limb in LIMBS]
    figure = {"id": 1, "name": "figure", "supercategory": "figure"}
    return [figure | {"keypoints": list(KEYPOINT_NAMES), "skeleton": skeleton}]


def recorded(paths: SetPaths) -> dict | None:
    """`info` of a set whose files are all there, else None.

    Raises FileExistsError where another program wrote the annotations.
    """
    try:
        # `info` comes first: no need to parse megabytes.
        with open(paths.json_file, encoding="utf-8") as file:
            head = file.read(2000)
    except FileNotFoundError:
        return None
    prefix = '{"info": '
    try:
        info, _ = json.JSONDecoder().raw_decode(head, len(prefix)) if head.startswith(prefix) else ({}, 0)
    except json.JSONDecodeError:
        info = {}
    if info.get("generator") != GENERATOR:
        raise FileExistsError(
            f"{paths.json_file}: not written by {GENERATOR}, so it is kept. "
            "Move it away, or set DETECTRON2_DATASETS to another folder."
        )
    try:
        count = sum(entry.name.endswith(".jpg") for entry in os.scandir(paths.image_root))
    except FileNotFoundError:
        return None
    return info if count == info["parameters"]["images"] else None


def reusable(paths: SetPaths, parameters: SetParameters | None) -> bool:
    info = recorded(paths)
    if info is None or info["version"] != VERSION:
        return False
    return parameters is None or info["parameters"] == asdict(parameters)


def ensure_set(
    root: str | os.PathLike, kind: str, split: str, parameters: SetParameters | None = None
) -> SetPaths:
    """Draws a set unless it is there; processes that start together draw it once.

    Args:
        parameters: None takes a set of any parameters, and draws one of the default parameters where there is
            none; otherwise a set of other parameters is redrawn.

    Raises:
        FileExistsError: files of another program are in the way.
        OSError: root is not writable.
    """
    paths = set_paths(root, kind, split)
    if not reusable(paths, parameters):
        paths.json_file.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(str(paths.json_file)):
            # Another process may have drawn it while this one waited for the lock.
            if not reusable(paths, parameters):
                draw_set(paths, parameters or SetParameters(kind, split))
    return paths


def draw_set(paths: SetPaths, parameters: SetParameters) -> None:
    """Draws every image of a set and its annotations, replacing what an earlier run left."""
    logger.info("Drawing %d images into %s", parameters.images, paths.image_root)
    paths.json_file.unlink(missing_ok=True)
    paths.image_root.mkdir(parents=True, exist_ok=True)
    for entry in os.scandir(paths.image_root):
        if IMAGE_NAME.fullmatch(entry.name):
            os.unlink(entry.path)

    def draw(index: int) -> list[dict]:
        sample = draw_sample(parameters.kind, parameters.size, parameters.image_seed(index))
        bgr = np.ascontiguousarray(sample.image[..., ::-1])
        _, content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        write_atomically(paths.image_root / file_name(index), content.tobytes())
        return sample.annotations

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        drawn = pool.map(draw, range(parameters.count))
        title = f"drawing {parameters.kind} {parameters.split}"
        progress = tqdm(drawn, title, parameters.images, unit="image", disable=None)
        dataset = coco_dataset(parameters, list(progress))
    write_atomically(paths.json_file, json.dumps(dataset).encode())


def file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def coco_dataset(parameters: SetParameters, annotations: list[list[dict]]) -> dict:
    """COCO's annotation file; ids of images and annotations count from 1."""
    names = {category["name"]: category["id"] for category in categories(parameters.kind)}
    numbered: list[dict] = []
    for image_id, of_image in enumerate(annotations, 1):
        for annotation in of_image:
            ids = {"id": len(numbered) + 1, "image_id": image_id}
            rest = {key: value for key, value in annotation.items() if key != "category"}
            numbered.append(ids | {"category_id": names[annotation["category"]]} | rest)
    side = parameters.size
    return {
        "info": {"generator": GENERATOR, "version": VERSION, "parameters": asdict(parameters)},
        "licenses": [],
        "categories": categories(parameters.kind),
        "images": [
            {"id": index + 1, "file_name": file_name(index), "width": side, "height": side}
            for index in range(parameters.count)
        ],
        "annotations": numbered,
    }
