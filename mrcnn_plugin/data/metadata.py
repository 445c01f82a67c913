"""Metadata of a data set in a file, so that a model's output can be named and drawn without the set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.data import Metadata

from mrcnn_plugin.atomic_files import write_atomically

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
    """Reads what `save_metadata` wrote."""
    with open(path) as file:
        return metadata_of(json.load(file))


def metadata_of(fields: dict[str, Any]) -> Metadata:
    """The inverse of `metadata_fields`, also after a way through JSON."""
    fields = dict(fields)
    ids = fields.get("thing_dataset_id_to_contiguous_id")
    if ids is not None:
        fields["thing_dataset_id_to_contiguous_id"] = {int(key): value for key, value in ids.items()}
    return Metadata().set(**fields)
