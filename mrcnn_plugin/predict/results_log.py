"""Results as JSON lines while they are made, and as one COCO JSON file when all are there.

`predictions.jsonl`, and `predictions.1.jsonl` ... of further processes, hold a line for each picture, written
as soon as the network has finished with its batch. The first line of each file names the settings. A line
that a killed process has left half written is dropped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mrcnn_plugin.atomic_files import replacing
from mrcnn_plugin.errors import ConfigError

from .inputs import Picture

_PART = re.compile(r"predictions(\.\d+)?\.jsonl")


class _Place(NamedTuple):
    """Where a line is, and the overlay that it names."""

    part: Path
    offset: int
    overlay: str | None


class ResultsLog:
    """The JSON lines of all processes in one output folder; this process appends to its own."""

    def __init__(self, folder: str, settings: Mapping[str, Any], *, rank: int = 0) -> None:
        """
        Args:
            folder: exists.
            settings: what the results depend on, as JSON values.
            rank: of this process.
        """
        self._folder = Path(folder)
        self._settings = dict(settings)
        self._own = self._folder / ("predictions.jsonl" if rank == 0 else f"predictions.{rank}.jsonl")
        self._places: dict[str, _Place] = {}
        self._file: BinaryIO | None = None

    def _parts(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if _PART.fullmatch(path.name))

    def clear(self) -> None:
        """Removes what an earlier run left, of every process."""
        for part in self._parts():
            part.unlink()

    def read(self) -> None:
        """Looks up what is there, of every process.

        Raises:
            ConfigError: it was made with other settings, or is no log of this program.
        """
        self._places.clear()
        for part in self._parts():
            offset = 0
            with part.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        self._note(part, offset, line)
                    offset += len(line)

    def _note(self, part: Path, offset: int, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if offset == 0:
                self._check(entry["settings"])
            else:
                self._places[entry["file_name"]] = _Place(part, offset, entry["overlay"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"--resume: {part} is not a log of predict.py ({error}); start without --resume"
            ) from error

    def _check(self, settings: Mapping[str, Any]) -> None:
        names = [*self._settings, *(name for name in settings if name not in self._settings)]
        for name in names:
            now, then = self._settings.get(name), settings.get(name)
            if now != then:
                raise ConfigError(
                    f"--resume: {self._folder} was predicted with {name} = {then}, now it is {now}; "
                    "start without --resume, or give another --output"
                )

    def has(self, file_name: str, overlay: str | None) -> bool:
        """Whether a file's results are there, with its overlay where one is requested."""
        place = self._places.get(file_name)
        if place is None:
            return False
        return overlay is None or (place.overlay == self._relative(overlay) and os.path.isfile(overlay))

    def _relative(self, path: str | None) -> str | None:
        return None if path is None else os.path.relpath(path, self._folder)

    def open(self) -> None:
        """Opens this process's file for `append`; a half-written last line is cut off."""
        exists = self._own.exists()
        self._file = self._own.open("r+b" if exists else "x+b")
        end = 0
        for line in self._file:
            if line.endswith(b"\n"):
                end += len(line)
        self._file.truncate(end)
        self._file.seek(end)
        if end == 0:
            self._write([{"settings": self._settings}])

    def append(self, entries: Iterable[tuple[str, str | None, list[dict] | None]]) -> None:
        """Adds lines in one write.

        Args:
            entries: file name, overlay, and COCO results: None for a video, which has its own file.
        """
        self._write(
            [
                {"file_name": file_name, "overlay": self._relative(overlay), "results": results}
                for file_name, overlay, results in entries
            ]
        )

    def _write(self, entries: Sequence[dict]) -> None:
        if self._file is None:
            raise RuntimeError("open() comes before append()")
        self._file.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def merge(self, pictures: Iterable[Picture], path: str) -> tuple[int, int]:
        """Writes the results of these pictures, in this order, as one COCO results file, in one step.

        Only one picture's results are in memory at a time.

        Returns:
            Numbers of results and of pictures that have a line.
        """
        self.read()
        parts: dict[Path, BinaryIO] = {}
        count = images = 0
        try:
            with replacing(path) as temporary, open(temporary, "w") as file:
                file.write("[")
                for picture in pictures:
                    place = self._places.get(picture.path)
                    if place is None:
                        continue
                    images += 1
                    if place.part not in parts:
                        parts[place.part] = place.part.open("rb")
                    parts[place.part].seek(place.offset)
                    for result in json.loads(parts[place.part].readline())["results"]:
                        result["image_id"] = picture.image_id
                        file.write((", " if count else "") + json.dumps(result))
                        count += 1
                file.write("]")
        finally:
            for opened in parts.values():
                opened.close()
        return count, images
