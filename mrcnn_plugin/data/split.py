"""A part of a COCO data set held out for testing, chosen by a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from detectron2.data import MetadataCatalog

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.errors import DatasetError

from .registration import CUSTOM_PREFIX, ensure_registered

Item = TypeVar("Item")


def choose(items: Sequence[Item], fraction: float, seed: int) -> set[Item]:
    """The fraction, in (0, 1), of two or more items that `seed` draws: at least one, and not all."""
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    return set(shuffled[: min(max(round(fraction * len(shuffled)), 1), len(shuffled) - 1)])


def hold_out(name: str, folder: str | Path, *, fraction: float = 0.2, seed: int = 0) -> tuple[str, str]:
    """Splits a COCO data set in two and registers the parts.

    The annotations of the parts are written to `folder`/train.json and `folder`/held_out.json; the images
    stay where they are. The same set, fraction and seed give the same parts.

    Args:
        name: coco:ANNOTATIONS.json:IMAGE_ROOT, or a registered set in COCO's format.
        fraction: of the images, in (0, 1), held out; at least one with annotations goes to each part.
        seed: of the choice.

    Returns:
        Names of the two parts: to train on, held out.

    Raises:
        DatasetError: the set is not in COCO's format, or fewer than two of its images have annotations.
    """
    ensure_registered(name)
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    if not json_file or not image_root:
        raise DatasetError(f"{name}: only a set in COCO's format can be split; name a test set of your own")
    dataset = json.loads(Path(json_file).read_text())
    annotated = {annotation["image_id"] for annotation in dataset.get("annotations", ())}
    ids = sorted(image["id"] for image in dataset["images"])
    full, empty = [i for i in ids if i in annotated], [i for i in ids if i not in annotated]
    if len(full) < 2:
        raise DatasetError(
            f"{json_file}: {len(full)} images with annotations cannot be split; name a test set of your own"
        )
    # Apart, so that a small part is not of empty images alone.
    held_out = choose(full, fraction, seed) | (choose(empty, fraction, seed) if len(empty) > 1 else set())
    names = []
    for part, is_in in (("train", lambda i: i not in held_out), ("held_out", lambda i: i in held_out)):
        chosen = {
            **dataset,
            "images": [image for image in dataset["images"] if is_in(image["id"])],
            "annotations": [a for a in dataset.get("annotations", ()) if is_in(a["image_id"])],
        }
        path = Path(folder, f"{part}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(chosen).encode())
        names.append(f"{CUSTOM_PREFIX}{path}:{image_root}")
    ensure_registered(names)
    return names[0], names[1]
