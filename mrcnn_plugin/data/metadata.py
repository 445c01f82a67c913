"""Metadata of a data set in a file, so that a model's output can be named and drawn without the set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.data import Metadata

from mrcnn_plugin.atomic_files import write_atomically
from mrcnn_plugin.errors import DatasetError, first_line

_FIELDS = (
    "thing_classes",
    "thing_colors",
    "thing_dataset_id_to_contiguous_id",
    "keypoint_names",
    "keypoint_flip_map",
    "keypoint_connection_rules",
)


def save_metadata(metadata: Metadata, path: str) -> None:
    """Writes names, colours, category ids and keypoints as JSON."""
    write_atomically(Path(path), json.dumps(metadata_fields(metadata), indent=1).encode())


def metadata_fields(metadata: Metadata) -> dict[str, Any]:
    """Names, colours, category ids and keypoints, as far as there are any."""
    return {name: metadata.get(name) for name in _FIELDS if metadata.get(name) is not None}


def load_metadata(path: str) -> Metadata:
    """Reads what `save_metadata` wrote.

    Raises:
        DatasetError: the file is not that, or does not fit together.
    """
    try:
        return metadata_of(json.loads(Path(path).read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise DatasetError(f"{path} is not the metadata of a run: {first_line(error)}") from error


def metadata_of(fields: dict[str, Any]) -> Metadata:
    """The inverse of `metadata_fields`, also after a way through JSON.

    Raises:
        ValueError, TypeError, AttributeError, LookupError: the fields do not fit together.
    """
    ids = fields.get("thing_dataset_id_to_contiguous_id")
    if ids is not None:
        fields = {**fields, "thing_dataset_id_to_contiguous_id": {int(key): ids[key] for key in ids}}
    fields = {name: fields[name] for name in _FIELDS if name in fields}
    _check(fields)
    return Metadata().set(**fields)


def _check(fields: dict[str, Any]) -> None:
    """Raises ValueError where a field is not of the form that drawing and writing of results rely on."""
    for name in ("thing_classes", "keypoint_names"):
        names = fields.get(name, [])
        if not (isinstance(names, list) and all(isinstance(text, str) for text in names)):
            raise ValueError(f"{name} must be a list of names")
    number = len(fields.get("thing_classes", []))
    colors = fields.get("thing_colors", [[0, 0, 0]] * number)
    if len(colors) != number or not all(map(_is_color, colors)):
        raise ValueError("thing_colors must be one [red, green, blue] for each class")
    ids = fields.get("thing_dataset_id_to_contiguous_id", {})
    if ids and sorted(ids.values()) != list(range(number)):
        raise ValueError("thing_dataset_id_to_contiguous_id must give each class one id")
    keypoints = set(fields.get("keypoint_names", []))
    for name, length in (("keypoint_flip_map", 2), ("keypoint_connection_rules", 3)):
        for row in fields.get(name, []):
            if len(row) != length or not {row[0], row[1]} <= keypoints:
                raise ValueError(f"{name} must join keypoints that keypoint_names has")
    if not all(_is_color(row[2]) for row in fields.get("keypoint_connection_rules", [])):
        raise ValueError("keypoint_connection_rules must have a [red, green, blue] each")


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, int | float) and 0 <= part <= 255 for part in value)
    )
