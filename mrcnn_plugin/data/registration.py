"""Registration with Detectron2's catalogs: the built-in sets, drawn when they are first loaded."""

from __future__ import annotations

import colorsys
import os
import re
from collections.abc import Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .generator import KINDS, SPLITS, categories, ensure_set, set_paths


def datasets_root() -> str:
    """Folder of data sets, as Detectron2 takes it: $DETECTRON2_DATASETS, else ./datasets."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_shapes(root: str | None = None) -> None:
    """Register shapes_{train,val} and shapes_keypoints_{train,val}; those registered already are left alone.

    root: the folder of data sets; None for `datasets_root()`. A set is drawn into it when it is first loaded.
    """
    root = datasets_root() if root is None else root
    for kind, (folder, _) in KINDS.items():
        for split in SPLITS:
            name = f"{folder}_{split}"
            if name not in DatasetCatalog:
                register_shapes_set(name, root, kind, split)


def register_shapes_set(name: str, root: str, kind: str, split: str) -> None:
    """Register one drawn set (kind "shapes" or "keypoints", split "train" or "val") under `name`."""
    json_file, image_root = map(str, set_paths(root, kind, split))

    def load() -> list[dict]:
        ensure_set(root, kind, split)
        return load_coco_json(json_file, image_root, name)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        **metadata_of(categories(kind)),
    )


def metadata_of(coco_categories: Iterable[dict]) -> dict:
    """Detectron2's metadata from COCO's `categories`: class names in the order of their ids, the mapping of
    ids to them and, where categories have keypoints, their names, left/right pairs and skeleton."""
    ordered = sorted(coco_categories, key=lambda category: category["id"])
    metadata = {
        "thing_classes": [category["name"] for category in ordered],
        "thing_dataset_id_to_contiguous_id": {category["id"]: i for i, category in enumerate(ordered)},
    }
    with_keypoints = [category for category in ordered if category.get("keypoints")]
    # A keypoint head has one set of keypoints; classes that disagree about theirs cannot share it.
    if with_keypoints and all(c["keypoints"] == with_keypoints[0]["keypoints"] for c in with_keypoints):
        names = tuple(with_keypoints[0]["keypoints"])
        metadata["keypoint_names"] = names
        metadata["keypoint_flip_map"] = flip_map(names)
        metadata["keypoint_connection_rules"] = connection_rules(names, with_keypoints[0].get("skeleton", ()))
    return metadata


def flip_map(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs of keypoints that a mirror exchanges, told by "left" and "right" (or L and R) in their names.

    Understands left_eye, eyeLeft, "eye l", L_wrist, lwrist; a name without a counterpart has no pair.
    """
    names = tuple(names)
    by_lower = {name.lower(): name for name in names}
    pairs = []
    for name in names:
        for left, right in ((r"left", "right"), (r"^l", "r"), (r"l$", "r"), (r"(?<![a-z])l(?![a-z])", "r")):
            mirrored = by_lower.get(re.sub(left, right, name.lower(), count=1))
            if mirrored is not None and mirrored != name:
                pairs.append((name, mirrored))
                break
    return tuple(pairs)


def connection_rules(
    names: tuple[str, ...], skeleton: Iterable[tuple[int, int]]
) -> list[tuple[str, str, tuple[int, int, int]]]:
    """Detectron2's (name, name, RGB colour) lines from COCO's skeleton, pairs of indices from 1."""
    limbs = [
        (start, end) for start, end in skeleton if min(start, end) >= 1 and max(start, end) <= len(names)
    ]
    hues = (colorsys.hsv_to_rgb(index / max(len(limbs), 1), 0.7, 1.0) for index in range(len(limbs)))
    colors = (tuple(round(255 * channel) for channel in hue) for hue in hues)
    return [(names[start - 1], names[end - 1], color) for (start, end), color in zip(limbs, colors)]
