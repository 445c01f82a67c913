"""Folders of instance masks as pictures, in two published layouts.

2018 Data Science Bowl (https://www.kaggle.com/c/data-science-bowl-2018/data), one folder per picture:

    ROOT/ID/images/ID.png
    ROOT/ID/masks/*.png          one binary mask per instance

Penn-Fudan (https://www.cis.upenn.edu/~jshi/ped_html), one mask a picture:

    ROOT/PNGImages/NAME.png
    ROOT/PedMasks/NAME_mask.png  its pixels: 0, or the number of their instance
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrcnn_plugin.errors import DatasetError

from .annotation_set import DEFAULTS, AnnotationSet, Options, absolute, named_categories, progress
from .masks import segment_mask
from .pictures import list_pictures, read_binary_mask, read_instance_ids, require_folder, walk

NO_MASKS = "pictures without masks, not annotated"
DSB2018_LAYOUT = "folders with images/ (one picture) and masks/ (one PNG an instance) in each"


def read_dsb2018(source: str | os.PathLike, options: Options = DEFAULTS) -> AnnotationSet:
    """Reads folders in the layout of the 2018 Data Science Bowl, found at any depth.

    Whatever is not 0 in a mask is its instance; masks may overlap. One class, `options.classes` or "nucleus".
    A folder without masks/ is left out, one with an empty masks/ kept as a picture without instances.

    Raises:
        DatasetError: the folder has another layout, or a file cannot be read.
    """
    root = require_folder(absolute(source), f"expected {DSB2018_LAYOUT}")
    found = AnnotationSet(root, named_categories(one_class(options, "nucleus", root)))
    folders = [folder for folder, inner, _ in walk(root) if "images" in inner]
    for folder in progress(sorted(folders), f"reading {root.name}"):
        pictures = list_pictures(folder / "images")
        if len(pictures) != 1:
            raise DatasetError(
                f"{folder / 'images'}: expected one picture, got {len(pictures)}; remove others"
            )
        if not (folder / "masks").is_dir():
            found.skipped[NO_MASKS].append(str(pictures[0]))
            continue
        picture = found.read_picture(pictures[0], options)
        if picture is None:
            continue
        image_id = found.add_picture(picture)
        for path in list_pictures(folder / "masks"):
            mask = read_binary_mask(path)
            turn = found.turn_of(picture, mask.shape[::-1], options, path)
            mask = mask if turn is None else turn.mask(mask)
            found.add_instance(image_id, 1, segment_mask(mask, options.masks), str(path))
    return found.require_pictures(DSB2018_LAYOUT)


def read_pennfudan(
    source: str | os.PathLike,
    options: Options = DEFAULTS,
    *,
    image_folder: str = "PNGImages",
    mask_folder: str = "PedMasks",
    mask_suffix: str = "_mask",
) -> AnnotationSet:
    """Reads pictures and their masks of instance ids in Penn-Fudan's layout, subfolders included.

    The mask of NAME.png is NAME + mask_suffix, a picture of one channel: grey of 1 to 32 bits, or a palette,
    whose indices are the ids. 0 is background. One class, `options.classes` or "person". A picture without a
    mask is left out, one with an empty mask kept as a picture without instances.

    Raises:
        DatasetError: the folder has another layout, or a file cannot be read.
    """
    root = absolute(source)
    layout = f"{image_folder}/NAME.png and {mask_folder}/NAME{mask_suffix}.png"
    images = require_folder(root / image_folder, f"expected {layout}")
    masks = require_folder(root / mask_folder, f"expected {layout}")
    found = AnnotationSet(root, named_categories(one_class(options, "person", root)))
    mask_of = {path.relative_to(masks).with_suffix(""): path for path in list_pictures(masks)}
    for path in progress(list_pictures(images), f"reading {root.name}"):
        name = path.relative_to(images)
        mask_path = mask_of.pop(name.with_name(name.stem + mask_suffix), None)
        if mask_path is None:
            found.skipped[NO_MASKS].append(str(path))
            continue
        picture = found.read_picture(path, options)
        if picture is None:
            continue
        ids = read_instance_ids(mask_path)
        turn = found.turn_of(picture, ids.shape[::-1], options, mask_path)
        image_id = found.add_picture(picture)
        for instance, mask in instance_masks(ids if turn is None else turn.mask(ids)):
            fields = segment_mask(mask, options.masks)
            found.add_instance(image_id, 1, fields, f"{mask_path} id {instance}")
    found.leave_out("masks without a picture", sorted(mask_of.values()))
    return found.require_pictures(layout)


def one_class(options: Options, default: str, root: Path) -> tuple[str, ...]:
    if len(options.classes) > 1:
        raise DatasetError(
            f"{root}: its masks have one class, got {len(options.classes)}; give one --classes"
        )
    return options.classes or (default,)


def instance_masks(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(id, (H, W) bool mask) of each value of `ids` but 0, in their order."""
    rows, columns = np.nonzero(ids)
    values = ids[rows, columns]
    order = np.argsort(values, kind="stable")
    present, starts = np.unique(values[order], return_index=True)
    for instance, pixels in zip(present.tolist(), np.split(order, starts[1:])):
        mask = np.zeros(ids.shape, bool)
        mask[rows[pixels], columns[pixels]] = True
        yield int(instance), mask
