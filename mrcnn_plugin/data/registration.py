"""Registration with Detectron2's catalogs.

Built-in sets are drawn when they are first loaded. COCO-format data of one's own needs no code: the name
`coco:ANNOTATIONS.json:IMAGE_ROOT` stands for itself wherever a config takes the name of a data set. Its last
colon separates the two paths, so IMAGE_ROOT can hold none.
"""

from __future__ import annotations

import colorsys
import difflib
import os
import re
from collections.abc import Callable, Iterable

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from mrcnn_plugin.data.synthetic.generator import KINDS, SPLITS, categories, ensure_set, set_paths
from mrcnn_plugin.errors import DatasetError

from .coco_summary import summarize

CUSTOM_PREFIX = "coco:"
# What draws a built-in set unless it is there, by the name of the set.
DRAWN_SETS: dict[str, Callable[[], object]] = {}


def datasets_root() -> str:
    """Folder of data sets, as Detectron2 takes it: $DETECTRON2_DATASETS, else ./datasets."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_shapes(root: str | None = None) -> None:
    """Registers shapes_{train,val} and shapes_keypoints_{train,val}; those registered already are left alone.

    Args:
        root: the folder of data sets; None for `datasets_root()`. A set is drawn into it when first loaded.
    """
    root = datasets_root() if root is None else root
    for kind, (folder, _) in KINDS.items():
        for split in SPLITS:
            name = f"{folder}_{split}"
            if name not in DatasetCatalog:
                register_shapes_set(name, root, kind, split)


def register_shapes_set(name: str, root: str, kind: str, split: str) -> None:
    """Registers one drawn set (kind "shapes" or "keypoints", split "train" or "val") under `name`."""
    json_file, image_root = map(str, set_paths(root, kind, split))

    def draw() -> None:
        ensure_set(root, kind, split)

    def load() -> list[dict]:
        draw()
        return load_coco_json(json_file, image_root, name)

    DRAWN_SETS[name] = draw
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        **metadata_of(categories(kind)),
    )


def as_names(names: str | Iterable[str] | None) -> list[str]:
    """The names of data sets as a list, from the forms that configs give them in."""
    return [names] if names and isinstance(names, str) else list(names or ())


def ensure_registered(names: str | Iterable[str]) -> None:
    """Registers those of `names` that are of the form coco:ANNOTATIONS.json:IMAGE_ROOT and not yet known.

    Classes, and keypoints with their flip map and skeleton, are read from the JSON file.

    Raises:
        DatasetError: a name that Detectron2 does not know, or a file that cannot be read.
    """
    for name in as_names(names):
        if name in DatasetCatalog:
            continue
        if not name.startswith(CUSTOM_PREFIX):
            close = difflib.get_close_matches(name, DatasetCatalog.list(), 1)
            hint = f"did you mean {close[0]}? " if close else ""
            own = f"your own data is {CUSTOM_PREFIX}ANNOTATIONS.json:IMAGE_ROOT"
            raise DatasetError(f"{name}: no such data set; {hint}({own})")
        register_custom(name)


def register_custom(name: str) -> None:
    """Registers the data set coco:ANNOTATIONS.json:IMAGE_ROOT under that name."""
    json_file, _, image_root = name.removeprefix(CUSTOM_PREFIX).rpartition(":")
    if not json_file or not image_root:
        raise DatasetError(f"{name}: expected {CUSTOM_PREFIX}ANNOTATIONS.json:IMAGE_ROOT, got no image root")
    metadata = metadata_of(summarize(json_file).categories)
    keypoint_names = metadata.get("keypoint_names")

    def load() -> list[dict]:
        records = load_coco_json(json_file, image_root, name)
        return label_keypoints(records, len(keypoint_names)) if keypoint_names else records

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )


def label_keypoints(records: list[dict], num_keypoints: int) -> list[dict]:
    """Gives instances without keypoints `num_keypoints` unlabelled ones: Detectron2 wants all or none."""
    for record in records:
        for annotation in record["annotations"]:
            annotation.setdefault("keypoints", [0.0] * (3 * num_keypoints))
    return records


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
        if with_keypoints[0].get("keypoint_sigmas"):
            metadata["keypoint_oks_sigmas"] = tuple(with_keypoints[0]["keypoint_sigmas"])
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
    colors = ((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues)
    return [(names[start - 1], names[end - 1], color) for (start, end), color in zip(limbs, colors)]
