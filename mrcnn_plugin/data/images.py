"""Image files that cannot be read as Detectron2 reads them, and why."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Callable
from typing import Any

from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data.common import MapDataset
from PIL import Image

from mrcnn_plugin.errors import DatasetError, first_line

logger = logging.getLogger(__name__)

#: What Pillow raises on files that are no images, or damaged ones: nearly anything, by format.
IMAGE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
#: Modes of more than 8 bits; Pillow's conversion to RGB cuts their values off at 255.
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# An image that cannot be read is left out of training; so many in a row, and the data is at fault.
_MOST_IN_A_ROW = 20


def deep_mode(path: str) -> str | None:
    """What the pixels of a file are where they are not of 8 bits, else None; only its header is read."""
    with Image.open(path) as image:
        if image.mode not in _DEEP:
            return None
        return "floating-point numbers" if image.mode == "F" else "numbers of more than 8 bits"


def unreadable(path: str) -> str | None:
    """Why an image file cannot be read, in one line; None where it can."""
    if not os.path.isfile(path):
        return "no such file"
    try:
        if not os.path.getsize(path):
            return "the file is empty"
        deep = deep_mode(path)
        if deep:
            return f"its pixels are {deep}; convert it to 8 bits, scaled as you want it seen"
        utils.read_image(path, format="RGB")
    except IMAGE_ERRORS as error:
        return first_line(error)
    return None


def skip_unreadable(dataset: Any) -> None:
    """Lets a mapped data set leave out images that cannot be read, with a warning that names each.

    In place; Detectron2's `MapDataset` takes another image where its mapper gives None. Annotations that
    Detectron2's own mapper cannot use end in a DatasetError. A data set of another form is left as it is.
    """
    if isinstance(dataset, MapDataset):
        mapper = dataset._map_func
        own = type(getattr(mapper, "_obj", mapper)) is DatasetMapper
        dataset._map_func = _Skipping(mapper, len(dataset), own)


class _Skipping:
    """A mapper that gives None for an image that cannot be read."""

    def __init__(self, mapper: Callable[[dict], dict | None], images: int, is_detectron2s: bool) -> None:
        self._mapper = mapper
        self._images = images
        self._is_detectron2s = is_detectron2s
        self._in_a_row = 0
        self._broken: set[tuple] = set()
        self._named: set[str] = set()

    def __call__(self, dataset_dict: dict) -> dict | None:
        name = dataset_dict.get("file_name", "")
        which = name, dataset_dict.get("image_id")
        try:
            mapped = self._mapper(dataset_dict)
        except Exception as error:
            why = self._why(name, error)
            self._in_a_row += 1
            self._broken.add(which)
            if self._in_a_row >= _MOST_IN_A_ROW or len(self._broken) >= self._images:
                raise DatasetError(
                    f"{name}: {why}; nor could {self._in_a_row - 1} images before it be read"
                ) from error
            if name not in self._named:
                self._named.add(name)
                logger.warning(f"skipped {name}: {why}")
            return None
        self._in_a_row = 0
        self._broken.discard(which)
        return mapped

    def _why(self, name: str, error: Exception) -> str:
        why = unreadable(name) if name and "://" not in name else None
        if why is None and isinstance(error, utils.SizeMismatchError):
            why = first_line(error)
        if why is not None:
            return why
        if not self._is_detectron2s:
            raise error
        raise DatasetError(f"{name}: its annotations cannot be used: {first_line(error)}") from error
