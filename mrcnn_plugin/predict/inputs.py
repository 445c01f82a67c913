"""What predict.py reads: which pictures and videos, in which order, and what their output is called."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mrcnn_plugin.errors import ConfigError

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"}
_VIDEOS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}


class Input(NamedTuple):
    """A file to read. name: of its output, without suffix; of a folder's files, with their subfolders."""

    path: str
    name: str


class Picture(NamedTuple):
    """A picture to predict. overlay: the file to draw to, None for none."""

    path: str
    image_id: int
    overlay: str | None


def shown(path: str) -> str:
    """A path for the terminal, whatever bytes and control characters it is made of."""
    text = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_text(path: str) -> bool:
    """Whether a path is Unicode: OpenCV's functions end the process on one that is not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def find_inputs(
    inputs: Iterable[str], *, recursive: bool = False, skip: str | None = None
) -> tuple[list[Input], list[str]]:
    """Files of the given files, folders and globs, each once, in order.

    Args:
        recursive: whether the pictures in subfolders belong to a folder. Its videos never do: they are given
            by name.
        skip: a folder whose files are left out where a folder is searched: that of the output.

    Returns:
        The files, and those of `inputs` that are nothing.
    """
    files: dict[str, Input] = {}
    missing = []
    for given in inputs:
        if os.path.isdir(given):
            found = [
                Input(str(path), str(path.relative_to(given).with_suffix("")))
                for path in _images_in(Path(given), recursive, skip)
            ]
        elif os.path.isfile(given):
            # A pipe would be waited for.
            found = [Input(given, Path(given).stem)]
        else:
            paths = sorted(p for p in glob.glob(given, recursive=True) if os.path.isfile(p))
            found = [Input(path, Path(path).stem) for path in paths]
        for file in found:
            files.setdefault(file.path, file)
        if not found:
            missing.append(given)
    return list(files.values()), missing


def _images_in(folder: Path, recursive: bool, skip: str | None) -> list[Path]:
    paths = folder.rglob("*") if recursive else folder.iterdir()
    left_out = Path(skip).resolve() if skip is not None else None
    if left_out == folder.resolve():
        left_out = None
    return sorted(
        path
        for path in paths
        if path.suffix.lower() in _IMAGES
        # A link to nothing will be named; a pipe would be waited for.
        and (path.is_file() or (path.is_symlink() and not path.exists()))
        and not (left_out is not None and left_out in path.resolve().parents)
    )


def is_video(path: str) -> bool:
    """Whether the ending is that of a video."""
    return Path(path).suffix.lower() in _VIDEOS


def image_ids(files: Sequence[str]) -> list[int]:
    """The numbers in the file names where all are distinct numbers, as COCO's are; else 1, 2, ..."""
    stems = [Path(file).stem for file in files]
    if all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(files) + 1))


def output_paths(inputs: Sequence[Input], folder: str, suffix: str, taken: Iterable[str] = ()) -> list[str]:
    """A file of the input's name for each, in `folder`; of several inputs of one name the later are numbered.

    Args:
        taken: names that count as seen.

    Raises:
        ConfigError: an output would replace an input.
    """
    seen = Counter(taken)
    paths = []
    for file in inputs:
        name = _short(file.name)
        seen[name] += 1
        number = "" if seen[name] == 1 else f"_{seen[name]}"
        paths.append(os.path.join(folder, f"{name}{number}{suffix}"))
    given = {os.path.realpath(file.path) for file in inputs}
    for path in paths:
        if os.path.realpath(path) in given:
            raise ConfigError(f"--output {folder}: {path} would be overwritten; give another folder")
    return paths


def _short(name: str) -> str:
    """A name whose last part leaves room for endings and for the name that a file has while it is written."""
    # File systems count bytes, 255 of them; a character that is cut in its middle is dropped.
    above, last = os.path.split(name)
    if len(os.fsencode(last)) > 200:
        last = os.fsencode(last)[:200].decode(errors="ignore")
    return os.path.join(above, last)


def pictures_of(inputs: Sequence[Input], folder: str, *, overlays: bool) -> list[Picture]:
    """The pictures with their ids and the files of their overlays."""
    paths = output_paths(inputs, folder, ".png")
    ids = image_ids([file.path for file in inputs])
    return [
        Picture(file.path, image_id, path if overlays else None)
        for file, image_id, path in zip(inputs, ids, paths)
    ]
