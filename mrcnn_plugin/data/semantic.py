"""Semantic labels beside instances: one PNG per image, in COCO-stuff's layout.

    ROOT/coco/stuffthingmaps/{train2017,val2017}/000000000009.png
    ROOT/shapes/stuffthingmaps/{train,val}/000000.png

A pixel holds the index of its class, or 255 where it is not labelled. COCO-stuff's come with its download;
those of the built-in shapes are made from their instances. Detectron2 knows the sets, which are those of the
instances with `sem_seg_file_name`, as coco_2017_{train,val}_stuffthingmaps and shapes_semantic_{train,val}.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from iopath.common.file_io import file_lock

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.data.synthetic.generator import SPLITS, ensure_set, set_paths

from .registration import DRAWN_SETS, datasets_root

IGNORED = 255
FOLDER = "stuffthingmaps"
# Written last, so its presence says that the labels are complete; it tells which annotations they are of.
MARKER = "source.json"


def ensure_semantic_labels(json_file: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Writes the semantic labels of a COCO-format set into `folder`, unless they are there.

    A pixel of an instance or crowd region gets 1 + the index of its category in the order of their ids, every
    other one 0. Where instances overlap, the smaller one is in front. Processes that start together write
    them once; labels of annotations that have changed since are written anew.
    """
    folder = Path(folder)
    stat = os.stat(json_file)
    source = {"annotations": Path(json_file).name, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if _marked(folder, source):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(str(folder / MARKER)):
        # Another process may have written them while this one waited for the lock.
        if not _marked(folder, source):
            (folder / MARKER).unlink(missing_ok=True)
            _write_labels(json_file, folder)
            write_atomically(folder / MARKER, json.dumps(source).encode())


def _marked(folder: Path, source: dict) -> bool:
    try:
        return json.loads((folder / MARKER).read_text()) == source
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def _write_labels(json_file: str | os.PathLike, folder: Path) -> None:
    with open(json_file, encoding="utf-8") as file:
        dataset = json.load(file)
    ids = sorted(category["id"] for category in dataset["categories"])
    values = {category: 1 + index for index, category in enumerate(ids)}
    of_image = defaultdict(list)
    for annotation in dataset["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for image in dataset["images"]:
        label = semantic_label(of_image[image["id"]], values, image["height"], image["width"])
        _, content = cv2.imencode(".png", label)
        path = label_path(folder, image["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.tobytes())


def semantic_label(annotations: list[dict], values: dict[int, int], height: int, width: int) -> np.ndarray:
    """(height, width) uint8: the value of the instance that a pixel shows, 0 where there is none.

    annotations: COCO's, of one image; values: category id -> value.
    """
    label = np.zeros((height, width), np.uint8)
    for annotation in sorted(annotations, key=lambda a: -a["area"]):
        segmentation = annotation.get("segmentation")
        if not segmentation:
            continue
        rles = segmentation
        if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
            rles = mask_util.frPyObjects(segmentation, height, width)
        mask = mask_util.decode(mask_util.merge(rles) if isinstance(rles, list) else rles)
        label[mask.astype(bool)] = values[annotation["category_id"]]
    return label


def label_path(folder: str | os.PathLike, file_name: str) -> Path:
    """The PNG of an image, which has its name."""
    return Path(folder, file_name).with_suffix(".png")


def register_semantic(name: str, source: str, folder: str, draw: Callable[[], object] | None = None) -> None:
    """Registers the COCO-format set `source` with semantic labels under `name`, unless that is known.

    Args:
        folder: the PNGs, named as the images.
        draw: makes them and the set where it is a drawn one.
    """
    if name in DatasetCatalog:
        return

    def load() -> list[dict]:
        if draw is not None:
            draw()
        image_root = MetadataCatalog.get(source).image_root
        return [
            record
            | {"sem_seg_file_name": str(label_path(folder, os.path.relpath(record["file_name"], image_root)))}
            for record in DatasetCatalog.get(source)
        ]

    if draw is not None:
        DRAWN_SETS[name] = draw
    DatasetCatalog.register(name, load)
    metadata = {k: v for k, v in MetadataCatalog.get(source).as_dict().items() if k != "name"}
    MetadataCatalog.get(name).set(**metadata, sem_seg_root=folder, ignore_label=IGNORED)


def register_semantic_sets(root: str | None = None) -> None:
    """Registers shapes_semantic_{train,val} and coco_2017_{train,val}_stuffthingmaps.

    Args:
        root: the folder of data sets; None for `datasets_root()`.
    """
    root = datasets_root() if root is None else root
    for split in SPLITS:
        folder = os.path.join(root, "shapes", FOLDER, split)
        json_file = set_paths(root, "shapes", split).json_file

        def draw(split: str = split, json_file: Path = json_file, folder: str = folder) -> None:
            ensure_set(root, "shapes", split)
            ensure_semantic_labels(json_file, folder)

        register_semantic(f"shapes_semantic_{split}", f"shapes_{split}", folder, draw)
        folder = os.path.join(root, "coco", FOLDER, f"{split}2017")
        register_semantic(f"coco_2017_{split}_stuffthingmaps", f"coco_2017_{split}", folder)
