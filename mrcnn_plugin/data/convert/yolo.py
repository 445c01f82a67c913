"""YOLO's folders of polygons: images/, labels/ and data.yaml, as Ultralytics documents them.

https://docs.ultralytics.com/datasets/segment: one text file per picture, one line per instance,
`class x1 y1 x2 y2 ...`, coordinates as fractions of the picture's width and height. Five numbers are a box,
`class x y width height` of its centre.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from mrcnn_plugin.data.yaml_nodes import compose
from mrcnn_plugin.errors import DatasetError

from .annotation_set import DEFAULTS, AnnotationSet, Options, absolute, progress
from .masks import segment_polygons
from .pictures import Picture, is_picture, list_pictures, one_line, require_folder

SUBSETS = ("train", "val", "test")
# As far as rounding takes a coordinate out of the picture; beyond, it is in another unit.
TOLERANCE = 0.01
LAYOUT = "images/, labels/ and data.yaml with `names`"


def read_yolo(source: str | os.PathLike, options: Options = DEFAULTS) -> AnnotationSet:
    """Reads a YOLO data set.

    Category ids are YOLO's class indices. A picture without a label file, or with an empty one, has no
    instances. Subsets are those of data.yaml.

    Args:
        source: its data.yaml, or the folder that holds it; without one, classes.txt beside images/ and
            labels/.
        options: of every reader.

    Raises:
        DatasetError: a file is missing or malformed.
    """
    config_path, config = read_config(absolute(source))
    found = AnnotationSet(config_path.parent)
    found.categories = [{"id": index, "name": name} for index, name in class_names(config_path, config)]
    entries = list(listed_pictures(config_path, config, found))
    seen, label_folders = set(), set()
    for subset, path in progress(entries, f"reading {found.root.name}"):
        label = label_path(path)
        label_folders.add(label_folder(label))
        seen.add(label)
        picture = found.read_picture(path, options)
        if picture is not None:
            known = len(found.images)
            image_id = found.add_picture(picture, subset=subset)
            if len(found.images) > known:
                read_label(label, picture, image_id, found, options)
    for folder in sorted(label_folders):
        others = set(folder.rglob("*.txt")) - seen if folder.name == "labels" else ()
        found.leave_out("label files without a picture", sorted(others))
    return found.require_pictures(LAYOUT)


def read_config(source: Path) -> tuple[Path, dict]:
    """The file that names the classes, and data.yaml's content: of classes.txt the names alone."""
    if source.is_file():
        return source, read_yaml(source)
    require_folder(source, f"expected one with {LAYOUT}")
    candidates = [source / "data.yaml"]
    if not candidates[0].is_file():
        candidates = sorted(path for path in source.iterdir() if path.suffix in (".yaml", ".yml"))
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        raise DatasetError(f"{source}: which of {names} describes it? give that file in place of the folder")
    if candidates:
        return candidates[0], read_yaml(candidates[0])
    classes = source / "classes.txt"
    if not classes.is_file():
        raise DatasetError(f"{source / 'data.yaml'}: no such file; add one with `names: [class, ...]`")
    return classes, {"names": [line.strip() for line in read_text(classes).splitlines() if line.strip()]}


def read_yaml(path: Path) -> dict:
    text = read_text(path)
    try:
        compose(text)
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # PyYAML hands on what its own parts raise, of a date that does not exist for instance.
        raise DatasetError(f"{path}: malformed YAML ({one_line(error)}); fix that line") from error
    if not isinstance(config, dict):
        raise DatasetError(f"{path}: expected `names: [class, ...]` and where the pictures are, got no keys")
    return config


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def class_names(path: Path, config: dict) -> list[tuple[int, str]]:
    """(index, name) of data.yaml's `names`, a list or a mapping from index to name."""
    if "kpt_shape" in config:
        raise DatasetError(f"{path}: a data set of poses (kpt_shape), which has no masks; convert another")
    names = config.get("names")
    if names is None:
        raise DatasetError(f"{path}: expected `names`, a list or {{index: name}}, got none")
    try:
        items = list(names.items() if isinstance(names, dict) else enumerate(names))
        classes = sorted((int(index), str(name)) for index, name in items)
    except (TypeError, ValueError, OverflowError) as error:
        got = shortened(names)
        raise DatasetError(f"{path}: expected `names`, a list or {{index: name}}, got {got}") from error
    if not classes:
        raise DatasetError(f"{path}: `names` is empty; list the classes there")
    count = config.get("nc", len(classes))
    if count != len(classes):
        raise DatasetError(
            f"{path}: nc is {count}, but names has {len(classes)} entries; correct one of them"
        )
    return classes


def shortened(value: object) -> str:
    """A value in a few words: the aliases of a YAML file can make a great many of it."""
    return reprlib.repr(value)


def listed_pictures(
    config_path: Path, config: dict, found: AnnotationSet
) -> Iterator[tuple[str | None, Path]]:
    """(subset, picture): those of data.yaml's train, val and test, or all of images/ where it names none."""
    root = config_path.parent
    if config.get("path"):
        named = absolute(root / str(config["path"]))
        if named.is_dir():
            root = named
        else:
            found.notes[f"no folder {named}: paths taken from the folder of"].append(str(config_path))
    if not any(config.get(subset) for subset in SUBSETS):
        folder = require_folder(root / "images", f"expected {LAYOUT}")
        yield from ((None, path) for path in list_pictures(folder))
        return
    for subset in SUBSETS:
        places = config.get(subset) or []
        for place in places if isinstance(places, list) else [places]:
            yield from ((subset, path) for path in pictures_at(root, str(place), config_path, subset))


def pictures_at(root: Path, place: str, config_path: Path, subset: str) -> list[Path]:
    """Pictures of a folder, or of a text file that lists them."""
    path = absolute(root / place)
    if not path.exists() and place.startswith("../"):
        # Roboflow's exports name ../train/images what lies in train/images.
        path = absolute(root / place.removeprefix("../"))
    if path.is_dir():
        return list_pictures(path)
    if path.is_file():
        lines = (line.strip() for line in read_text(path).splitlines())
        # Relative ones count from the root where they are written so, else from the list.
        return [next_existing(line, root, path.parent) for line in lines if line]
    raise DatasetError(
        f"{config_path}: {subset} is {place}, but there is no {path}; correct or remove that line"
    )


def next_existing(line: str, *roots: Path) -> Path:
    paths = [absolute(root / line) for root in roots]
    if not is_picture(paths[0].name):
        raise DatasetError(f"{paths[0]}: listed as a picture, but it has no picture's suffix; remove it")
    return next((path for path in paths if path.is_file()), paths[0])


def label_path(picture: Path) -> Path:
    """labels/ in place of the last images/ of the path; beside the picture where there is none."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def label_folder(label: Path) -> Path:
    """The folder labels/ that holds a label file, else its own."""
    return next((parent for parent in label.parents if parent.name == "labels"), label.parent)


def read_label(path: Path, picture: Picture, image_id: int, found: AnnotationSet, options: Options) -> None:
    """Adds the instances of a label file, which need not exist."""
    if not path.is_file():
        found.notes["pictures without a label file, kept as pictures without instances"].append(
            str(picture.path)
        )
        return
    turn = found.turn_of(picture, None, options, path)
    scale = np.array(picture.size if turn is None else picture.stored_size, np.float64)
    known = {category["id"] for category in found.categories}
    lines = set()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        if line in lines:
            found.skipped["lines that repeat another"].append(where)
            continue
        lines.add(line)
        index, points = parse_line(line, where, options.boxes)
        if index not in known:
            raise DatasetError(
                f"{where}: class {index}, but `names` has {min(known)} to {max(known)}; "
                "add its name or correct the line"
            )
        polygon = points * scale
        polygon = polygon if turn is None else turn.points(polygon)
        fields = segment_polygons([polygon], picture.height, picture.width, options.masks)
        found.add_instance(image_id, index, fields, where)


def parse_line(line: str, where: str, boxes: bool) -> tuple[int, np.ndarray]:
    """Class index and (P, 2) x, y in [0, 1]; with `boxes`, of a box its corners."""
    try:
        index, *numbers = map(float, line.split())
        values = np.array(numbers)
        if not (index.is_integer() and index >= 0 and np.isfinite(values).all()):
            raise ValueError
    except ValueError as error:
        raise DatasetError(f"{where}: expected a class index and numbers, got {line[:60]!r}") from error
    if len(values) == 4 and not boxes:
        raise DatasetError(
            f"{where}: a box, not a polygon; convert segmentation labels, or pass --boxes rectangle to take "
            "boxes as masks"
        )
    if len(values) == 4:
        (x, y), (w, h) = values[:2], values[2:] / 2
        values = np.array([x - w, y - h, x + w, y - h, x + w, y + h, x - w, y + h])
    elif len(values) < 6 or len(values) % 2:
        raise DatasetError(
            f"{where}: expected a class index and x y of 3 points or more, got {len(values)} numbers after it"
        )
    if values.min() < -TOLERANCE or values.max() > 1 + TOLERANCE:
        raise DatasetError(
            f"{where}: coordinates from {values.min():g} to {values.max():g}, expected fractions of the "
            "picture in [0, 1]; divide pixels by the picture's width and height"
        )
    return int(index), values.clip(0, 1).reshape(-1, 2)
