"""What the readers of all formats fill: pictures, instances, classes, and what was left out, by reason."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from mrcnn_plugin.errors import DatasetError

from .pictures import Picture, Turn, read_picture

Item = TypeVar("Item")
EMPTY_MASKS = "masks that cover no pixel"
REPEATED = "pictures listed more than once, taken together"
WIDE_PIXELS = "pictures of more than 8 bits a channel, which Detectron2 cuts off at 255"
ASSUMED_UPRIGHT = (
    "EXIF-rotated pictures whose annotations were taken as upright (if not: --orientation stored)"
)


@dataclass(frozen=True)
class Options:
    """masks: "auto", "polygon" or "rle", the form of segmentations; orientation: "auto", "upright" or
    "stored", of annotations of EXIF-rotated pictures; boxes: make a rectangle of a box without a mask;
    skip_missing: go on without the pictures that are missing or broken; classes: names in the order of their
    ids, for formats that have no ids."""

    masks: str = "auto"
    orientation: str = "auto"
    boxes: bool = False
    skip_missing: bool = False
    classes: tuple[str, ...] = ()


DEFAULTS = Options()


class Ids:
    """Ids of one kind: a number of one's own where it is free, else the next from `first`."""

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self._taken: set[int] = set()

    def take(self, own: object = None, least: int = 0) -> int:
        """own: used if it is a free integer of at least `least`."""
        if isinstance(own, int) and not isinstance(own, bool) and own >= least and own not in self._taken:
            taken = own
        else:
            while self._next in self._taken:
                self._next += 1
            taken = self._next
        self._taken.add(taken)
        return taken


@dataclass
class AnnotationSet:
    """Annotations in COCO's form; `file_name` is set when the image root is known.

    root: the folder of the source; categories, images, annotations: COCO's entries; pictures, contents,
    subsets: by image id the file, what gives its bytes where it is only embedded, the name of its split where
    the source has splits; skipped, notes: by reason the names of what was left out, or is worth knowing;
    extra: further entries of the JSON; image_ids, annotation_ids: where their ids come from.
    """

    root: Path
    categories: list[dict] = field(default_factory=list)
    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)
    pictures: dict[int, Picture] = field(default_factory=dict)
    contents: dict[int, Callable[[], bytes]] = field(default_factory=dict)
    subsets: dict[int, str] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    extra: dict = field(default_factory=dict)
    image_ids: Ids = field(default_factory=Ids)
    annotation_ids: Ids = field(default_factory=Ids)

    def __post_init__(self) -> None:
        self.root = absolute(self.root)
        self._by_path: dict[Path, int] = {}

    def add_picture(self, picture: Picture, image: dict | None = None, subset: str | None = None) -> int:
        """Adds a picture; its id, which for one that is there already is the former.

        image: further fields of COCO's entry; its `id` is kept where it is an integer and free.
        """
        path = absolute(picture.path)
        if path in self._by_path:
            self.notes[REPEATED].append(str(path))
            return self._by_path[path]
        fields = dict(image or {})
        image_id = self.image_ids.take(fields.pop("id", None))
        self.images.append({"id": image_id} | fields | {"width": picture.width, "height": picture.height})
        self.pictures[image_id] = picture
        self._by_path[path] = image_id
        if subset is not None:
            self.subsets[image_id] = subset
        if picture.wide_pixels:
            self.notes[WIDE_PIXELS].append(str(path))
        return image_id

    def add_instance(self, image_id: int, category_id: int, fields: dict | None, name: str) -> None:
        """Adds an instance, unless its mask is empty.

        fields: segmentation, area and bbox as `masks` gives them, None for an empty mask; an `id` of its own
        is kept where it is free; name: where it stands in the source.
        """
        if fields is None:
            self.skipped[EMPTY_MASKS].append(name)
            return
        # COCOeval takes a match with the id 0 for none.
        own = self.annotation_ids.take(fields.get("id"), least=1)
        entry = {"id": own, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
        self.annotations.append(entry | {key: value for key, value in fields.items() if key != "id"})

    def leave_out(self, reason: str, names: Iterable[object]) -> None:
        """Name what was left out."""
        for name in names:
            self.skipped[reason].append(str(name))

    def read_picture(self, path: Path, options: Options, content: bytes | None = None) -> Picture | None:
        """`pictures.read_picture`; None, with a name in `skipped`, for one that `skip_missing` lets pass."""
        try:
            return read_picture(path, content)
        except DatasetError as error:
            if not options.skip_missing:
                raise DatasetError(f"{error}, or leave such pictures out with --skip-missing") from error
            self.skipped["pictures that are missing or cannot be read"].append(str(path))
            return None

    def turn_of(
        self, picture: Picture, size: tuple[int, int] | None, options: Options, source: object
    ) -> Turn | None:
        """`Picture.turn_of`; a turned picture whose annotations do not tell their orientation is noted."""
        turn = picture.turn_of(size, options.orientation, source)
        if options.orientation == "auto" and picture.is_ambiguous(size):
            self.notes[ASSUMED_UPRIGHT].append(str(picture.path))
        return turn

    def require_pictures(self, expected: str) -> AnnotationSet:
        """Itself; raises a DatasetError where nothing was found. expected: what should be in the source."""
        if not self.images:
            reasons = "; ".join(f"{len(names)} {reason}" for reason, names in self.skipped.items())
            raise DatasetError(
                f"{self.root}: no annotated picture found{f' ({reasons})' if reasons else ''}; "
                f"expected {expected}"
            )
        return self


def absolute(path: str | os.PathLike) -> Path:
    """Without resolving links, so that names stay those that the person sees."""
    return Path(os.path.abspath(path))


def named_categories(names: Sequence[str], first: int = 1) -> list[dict]:
    return [{"id": first + index, "name": name} for index, name in enumerate(names)]


def progress(items: Iterable[Item], title: str) -> Iterable[Item]:
    """A bar over pictures, on a terminal."""
    return tqdm(items, desc=title, unit="picture", disable=None)
