"""Pictures as the loaders will see them: their upright size, and what turns annotations upright.

A camera stores a picture as its sensor lay and notes in EXIF how to turn it. Detectron2's `read_image` turns
it, so the coordinates that it is given must be those of the upright picture. Annotation tools differ; the
size that they noted beside the annotations mostly tells which of the two they meant.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mrcnn_plugin.data.images import IMAGE_ERRORS
from mrcnn_plugin.errors import DatasetError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
ORIENTATION_TAG = 0x0112
# EXIF 2.3, section 4.6.4, tag Orientation: (swap x and y, then mirror x, mirror y) that make it upright.
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class Turn:
    """From the stored picture's frame to that of the upright one, whose size is (width, height)."""

    swap: bool
    mirror_x: bool
    mirror_y: bool
    width: int
    height: int

    def points(self, points: np.ndarray, pixel_indices: bool = False) -> np.ndarray:
        """(P, 2) x, y -> the same places upright. Coordinates are continuous, a pixel being 1 wide, or
        with `pixel_indices` they count pixels from 0, as COCO's keypoints do."""
        last = 1 if pixel_indices else 0
        points = points[:, ::-1].copy() if self.swap else points.copy()
        if self.mirror_x:
            points[:, 0] = self.width - last - points[:, 0]
        if self.mirror_y:
            points[:, 1] = self.height - last - points[:, 1]
        return points

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """(stored height, stored width) -> (height, width)."""
        mask = mask.T if self.swap else mask
        mask = mask[:, ::-1] if self.mirror_x else mask
        return mask[::-1] if self.mirror_y else mask


@dataclass(frozen=True)
class Picture:
    """A picture's file. width, height: upright, in pixels; orientation: EXIF's, 1 to 8; wide_pixels: more
    than 8 bits a channel, which Detectron2's loader cuts off at 255."""

    path: Path
    width: int
    height: int
    orientation: int = 1
    wide_pixels: bool = False

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def stored_size(self) -> tuple[int, int]:
        return (self.height, self.width) if _TURNS[self.orientation][0] else self.size

    @property
    def turn(self) -> Turn:
        return Turn(*_TURNS[self.orientation], self.width, self.height)

    def turn_of(self, size: tuple[int, int] | None, orientation: str, source: object) -> Turn | None:
        """What makes annotations upright, None where they are.

        size: (width, height) of the picture that was annotated, None where the format does not say;
        orientation: "upright" or "stored" as the person knows it, or "auto": told by `size`, upright where
        both fit; source: what names the annotations in the DatasetError where the size is another.
        """
        if size is not None and size not in (self.size, self.stored_size):
            stored = f" (stored as {times(self.stored_size)})" if self.stored_size != self.size else ""
            raise DatasetError(
                f"{source}: made for a picture of {times(size)} pixels, but {self.path} has "
                f"{times(self.size)}{stored}; use the picture that was annotated"
            )
        if self.orientation == 1 or orientation == "upright":
            upright = True
        elif orientation == "stored":
            upright = False
        else:
            upright = size is None or size == self.size
        expected = self.size if upright else self.stored_size
        if size is not None and size != expected:
            raise DatasetError(
                f"{source}: made for {times(size)} pixels, but the {orientation} {self.path} has "
                f"{times(expected)}; leave --orientation at auto"
            )
        return None if upright else self.turn

    def is_ambiguous(self, size: tuple[int, int] | None) -> bool:
        """Whether the picture is turned and `size` does not tell which way the annotations are."""
        return self.orientation != 1 and (size is None or self.size == self.stored_size)


def times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def read_picture(path: Path, content: bytes | None = None) -> Picture:
    """Reads the header of the picture at `path`, or of `content`, which is to be written there.

    Raises DatasetError where it is missing or no picture.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
            orientation = orientation if orientation in _TURNS else 1
            wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
            width, height = image.size[::-1] if _TURNS[orientation][0] else image.size
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such picture; copy it there or remove its annotations") from error
    except IMAGE_ERRORS as error:
        raise DatasetError(f"{path}: cannot be read as a picture ({one_line(error)}); replace it") from error
    return Picture(path, width, height, orientation, wide)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk in order, through links, but into no folder twice; hidden folders left out."""
    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(parent), folders, sorted(names)


def list_files(folder: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """The files of a folder and its subfolders whose names are wanted, sorted."""
    return sorted(parent / name for parent, _, names in walk(folder) for name in names if wanted(name))


def list_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and its subfolders, sorted; hidden ones left out."""
    return list_files(folder, is_picture)


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def require_folder(folder: Path, what: str) -> Path:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder, {what}")
    return folder


def common_folder(paths: Iterable[Path]) -> Path:
    """The deepest folder that holds all `paths`, which are absolute."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def read_instance_ids(path: Path) -> np.ndarray:
    """(H, W) integers, the pixel values of a PNG of one channel: 1, 8, 16 or 32 bits, or palette indices.

    Raises DatasetError for colour, whose values are no ids.
    """
    values = _pixels(path)
    if values.ndim != 2:
        raise DatasetError(
            f"{path}: expected one channel of instance ids, got {values.shape[2]} channels; "
            "save it as a grey or palette picture whose values are the ids"
        )
    if values.dtype.kind == "f":
        raise DatasetError(f"{path}: expected integers as instance ids, got floats; save it with 16 bits")
    return values


def read_binary_mask(path: Path) -> np.ndarray:
    """(H, W) bool: where a picture of a mask is not 0; of colour any channel, alpha left out."""
    values = _pixels(path)
    return values != 0 if values.ndim == 2 else (values[..., :3] != 0).any(axis=2)


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode == "LA":
                return np.asarray(image)[..., 0]
            if image.mode in ("1", "L", "P", "I", "F") or image.mode.startswith("I;16"):
                return np.asarray(image)
        # Pillow would cut colours of 16 bits down to 8, so that a 1 became a 0.
        colours = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such mask; copy it there") from error
    except (*IMAGE_ERRORS, cv2.error) as error:
        raise DatasetError(f"{path}: cannot be read as a mask ({one_line(error)}); replace it") from error
    if colours is None:
        raise DatasetError(f"{path}: cannot be read as a mask; replace it")
    return colours
