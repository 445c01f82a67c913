"""An `AnnotationSet` as COCO JSON files, split if requested, with its pictures in place or copied."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path

from mrcnn_plugin.atomic_files import replacing, write_atomically
from mrcnn_plugin.data.split import choose
from mrcnn_plugin.errors import DatasetError

from .annotation_set import AnnotationSet, absolute, progress
from .pictures import common_folder


def write_coco(
    annotations: AnnotationSet,
    out: str | os.PathLike,
    *,
    val_fraction: float | None = None,
    seed: int = 0,
    one_file: bool = False,
    copy_images: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> list[tuple[Path, Path]]:
    """Writes `out`, or for a split OUT_train.json, OUT_val.json, ... beside it.

    Every file is whole or not there; the JSON files come last.

    Args:
        val_fraction: of the pictures, drawn by `seed`, that go to OUT_val.json in place of the source's own
            splits.
        one_file: joins the source's splits.
        copy_images: a folder for copies of the pictures, which else are named where they are.
        overwrite: whether files that exist are replaced.

    Returns:
        (JSON file, image root) of each file.

    Raises:
        DatasetError: a file exists or cannot be written.
    """
    out = absolute(out)
    subsets = split(annotations, val_fraction, seed, one_file)
    paths = {name: subset_path(out, name) for name in subsets}
    check_outputs(list(paths.values()), overwrite)
    source_root, names = relative_names(annotations)
    image_root = source_root if copy_images is None else absolute(copy_images)
    if ":" in str(image_root):
        raise DatasetError(
            f"{image_root}: coco:ANNOTATIONS.json:IMAGE_ROOT can name no folder with a colon; "
            "rename it, or copy the pictures elsewhere with --copy-images DIR"
        )
    if copy_images is not None:
        copy_pictures(annotations, names, image_root, overwrite)
    elif annotations.contents:
        path = annotations.pictures[min(annotations.contents)].path
        raise DatasetError(
            f"{path}: this picture is only embedded in its annotations (of {len(annotations.contents)}); "
            "write such pictures to a folder with --copy-images DIR"
        )
    for name, ids in subsets.items():
        write_json(annotations, ids, names, paths[name])
    return [(path, image_root) for path in paths.values()]


def subset_path(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}_{name}{out.suffix}") if name else out


def check_outputs(paths: list[Path], overwrite: bool) -> None:
    """Raises a DatasetError where a file cannot be written, or must not be."""
    for path in paths:
        if path.suffix != ".json":
            raise DatasetError(f"{path}: the output must end in .json")
        if path.exists() and not overwrite:
            raise DatasetError(f"{path}: exists; give another name, or --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)


def split(
    annotations: AnnotationSet, val_fraction: float | None, seed: int, one_file: bool
) -> dict[str, list[int]]:
    """Image ids by the name of their subset, "" for a single one."""
    ids = [image["id"] for image in annotations.images]
    if val_fraction is not None:
        return draw_split(annotations, ids, val_fraction, seed)
    if one_file or not annotations.subsets:
        return {"": ids}
    subsets = defaultdict(list)
    for image_id in ids:
        subsets[annotations.subsets[image_id]].append(image_id)
    return dict(subsets)


def draw_split(
    annotations: AnnotationSet, ids: list[int], fraction: float, seed: int
) -> dict[str, list[int]]:
    """The same pictures give the same split wherever they lie and in whatever order they were read."""
    if not 0 < fraction < 1:
        raise DatasetError(
            f"{annotations.root}: the part to hold out must be between 0 and 1, got {fraction}"
        )
    if len(ids) < 2:
        raise DatasetError(f"{annotations.root}: one picture cannot be split; leave out --val")
    _, names = relative_names(annotations)
    held_out = choose(sorted(ids, key=lambda image_id: names[image_id]), fraction, seed)
    return {
        "train": [image_id for image_id in ids if image_id not in held_out],
        "val": [image_id for image_id in ids if image_id in held_out],
    }


def relative_names(annotations: AnnotationSet) -> tuple[Path, dict[int, str]]:
    """The source's image root, and by image id the picture's path under it."""
    paths = {image_id: absolute(picture.path) for image_id, picture in annotations.pictures.items()}
    root = annotations.root
    if not all(path.is_relative_to(root) for path in paths.values()):
        root = common_folder(paths.values())
    return root, {image_id: path.relative_to(root).as_posix() for image_id, path in paths.items()}


def copy_pictures(annotations: AnnotationSet, names: dict[int, str], folder: Path, overwrite: bool) -> None:
    """Copies the pictures, unchanged with their EXIF, under the same names; those there already are kept."""
    for image_id, name in progress(names.items(), f"copying to {folder.name}"):
        source, target = annotations.pictures[image_id].path, folder / name
        content = annotations.contents[image_id]() if image_id in annotations.contents else None
        if target.exists():
            same = target.read_bytes() == content if content else filecmp.cmp(source, target, shallow=False)
            if same:
                continue
            if not overwrite:
                raise DatasetError(f"{target}: exists and is another picture; copy to an empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        if content is not None:
            write_atomically(target, content)
        else:
            with replacing(target) as part:
                shutil.copyfile(source, part)


def write_json(annotations: AnnotationSet, ids: list[int], names: dict[int, str], path: Path) -> None:
    chosen = set(ids)
    dataset = annotations.extra | {
        "categories": sorted(annotations.categories, key=lambda category: category["id"]),
        "images": [
            image | {"file_name": names[image["id"]]} for image in annotations.images if image["id"] in chosen
        ],
        "annotations": [entry for entry in annotations.annotations if entry["image_id"] in chosen],
    }
    write_atomically(path, json.dumps(dataset).encode())
