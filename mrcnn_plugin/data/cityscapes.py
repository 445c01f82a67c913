"""Cityscapes: checks of its folders, and drawn scenes in its genuine layout for running without a download.

    python -m mrcnn_plugin.data.synthetic.cityscapes --root FOLDER

    FOLDER/leftImg8bit/{train,val}/CITY/CITY_000000_000019_leftImg8bit.png
    FOLDER/gtFine/{train,val}/CITY/CITY_000000_000019_gtFine_{polygons.json,instanceIds.png,labelIds.png,
                                                              labelTrainIds.png}

The label images are made from the polygons by Cityscapes' own scripts. Detectron2 knows the drawn sets as
cityscapes_drawn_{train,val} and loads them, like the real ones, with its Cityscapes loader.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from iopath.common.file_io import file_lock
from tqdm import tqdm

from mrcnn_plugin.data.synthetic.street import THINGS, draw_street
from mrcnn_plugin.errors import DatasetError

from .registration import DRAWN_SETS, datasets_root

# Raised whenever the same parameters draw another set: sets on disk are then redrawn.
VERSION = 1
SPLITS = {"train": (600, ("arbor", "brook", "cliff")), "val": (100, ("delta",))}
MARKER = "drawn.json"
FOLDER = "cityscapes_drawn"


@dataclass(frozen=True)
class StreetSet:
    """What a split is drawn from. images: how many (None: 600 to train, 100 to validate); height, width: of
    the images, pixels."""

    split: str
    images: int | None = None
    height: int = 144
    width: int = 288
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.images is None:
            object.__setattr__(self, "images", SPLITS[self.split][0])
        for name, low in (("images", 1), ("height", 64), ("width", 64), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")

    def image_names(self) -> list[tuple[str, str]]:
        """(city, start of the file's name) of each image; every city has a share."""
        cities = SPLITS[self.split][1]
        return [(c := cities[i % len(cities)], f"{c}_{i:06d}_000019") for i in range(self.count)]

    @property
    def count(self) -> int:
        """`images`, with its default filled in."""
        return SPLITS[self.split][0] if self.images is None else self.images


def folders(root: str | os.PathLike, split: str) -> tuple[Path, Path]:
    """Where a split's images and ground truth lie under Cityscapes' root."""
    return Path(root, "leftImg8bit", split), Path(root, "gtFine", split)


def ensure_drawn(root: str | os.PathLike, drawn: StreetSet) -> tuple[Path, Path]:
    """Draws a split under `root` unless it is there; processes that start together draw it once.

    Returns:
        Folders of the images and of the ground truth.

    Raises:
        FileExistsError: there is such a split, and it was not drawn.
    """
    image_dir, gt_dir = folders(root, drawn.split)
    info = {"generator": "mrcnn_plugin.data.cityscapes", "version": VERSION, "parameters": asdict(drawn)}
    Path(root).mkdir(parents=True, exist_ok=True)
    with file_lock(str(Path(root, f".{drawn.split}"))):
        marker = gt_dir / MARKER
        if image_dir.is_dir() and marker.is_file() and json.loads(marker.read_text()) == info:
            return image_dir, gt_dir
        for folder in (gt_dir, image_dir):
            if folder.is_dir() and not marker.is_file():
                raise FileExistsError(f"{folder} was not drawn here, so it is kept: give another root")
        part = Path(root, f".drawing_{drawn.split}")
        shutil.rmtree(part, ignore_errors=True)
        _draw(part, drawn)
        (part / "gtFine" / MARKER).write_text(json.dumps(info))
        shutil.rmtree(image_dir, ignore_errors=True)
        shutil.rmtree(gt_dir, ignore_errors=True)
        for source, target in ((part / "gtFine", gt_dir), (part / "leftImg8bit", image_dir)):
            target.parent.mkdir(exist_ok=True)
            # The images last: a split without them is one that was interrupted.
            os.rename(source, target)
        part.rmdir()
    return image_dir, gt_dir


def _draw(folder: Path, drawn: StreetSet) -> None:
    label_images = _official_label_images()
    stream = list(SPLITS).index(drawn.split)
    names = tqdm(drawn.image_names(), desc=f"drawing {FOLDER} {drawn.split}", disable=None, leave=False)
    for index, (city, name) in enumerate(names):
        street = draw_street(drawn.height, drawn.width, np.random.SeedSequence([drawn.seed, stream, index]))
        image_dir, gt_dir = folder / "leftImg8bit" / city, folder / "gtFine" / city
        image_dir.mkdir(parents=True, exist_ok=True)
        gt_dir.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image_dir / f"{name}_leftImg8bit.png"), street.image[..., ::-1])
        polygons = gt_dir / f"{name}_gtFine_polygons.json"
        content = {"imgHeight": drawn.height, "imgWidth": drawn.width, "objects": street.objects}
        polygons.write_text(json.dumps(content))
        for kind, image in label_images(str(polygons)).items():
            cv2.imwrite(str(gt_dir / f"{name}_gtFine_{kind}.png"), image)


def _official_label_images() -> Callable[[str], dict[str, np.ndarray]]:
    """Cityscapes' own painters: a polygons file -> its label images, (H, W) uint8 or uint16, by kind."""
    try:
        from cityscapesscripts.helpers.annotation import Annotation
        from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
        from cityscapesscripts.preparation.json2labelImg import createLabelImage
    except ImportError as error:
        raise ImportError(f"Cityscapes needs its scripts ({error}): pip install cityscapesscripts") from error

    def paint(polygons: str) -> dict[str, np.ndarray]:
        annotation = Annotation()
        annotation.fromJsonFile(polygons)
        return {
            "instanceIds": np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16),
            "labelIds": np.asarray(createLabelImage(annotation, "ids")).astype(np.uint8),
            "labelTrainIds": np.asarray(createLabelImage(annotation, "trainIds")).astype(np.uint8),
        }

    return paint


def check_cityscapes(image_dir: str, gt_dir: str, task: str = "instance_seg") -> None:
    """Raises a one-line error that says how to fix it, where a split of Cityscapes cannot be loaded.

    Args:
        image_dir, gt_dir: .../leftImg8bit/SPLIT and .../gtFine/SPLIT.
        task: "instance_seg" needs polygons.json and instanceIds; "sem_seg" polygons.json and labelTrainIds.

    Raises:
        DatasetError: a folder or the first of the files that are missing.
    """
    for folder, part in ((image_dir, "leftImg8bit"), (gt_dir, "gtFine")):
        if not os.path.isdir(folder):
            raise DatasetError(
                f"no folder {folder}: set DETECTRON2_DATASETS (now {datasets_root()!r}) to the folder of "
                f"cityscapes/{part}, or draw a set: python -m mrcnn_plugin.data.synthetic.cityscapes"
            )
    images = sorted(Path(image_dir).glob("*/*"))
    if not images:
        raise DatasetError(f"no images in {image_dir}: expected CITY/*_leftImg8bit.png below it")
    labels = {"instance_seg": "instanceIds.png", "sem_seg": "labelTrainIds.png"}[task]
    for image in images:
        if not image.name.endswith("_leftImg8bit.png"):
            raise DatasetError(f"{image} is not one of Cityscapes (*_leftImg8bit.png): take it away")
        for kind in ("polygons.json", labels):
            name = image.name.replace("_leftImg8bit.png", f"_gtFine_{kind}")
            path = Path(gt_dir, image.parent.name, name)
            if not path.is_file():
                raise DatasetError(f"no {path}: {_fix(kind, Path(gt_dir))}")


def _fix(kind: str, gt_dir: Path) -> str:
    if kind == "labelTrainIds.png":
        script = "cityscapesscripts.preparation.createTrainIdLabelImgs"
        return f"make them with CITYSCAPES_DATASET={gt_dir.parent.parent} python -m {script}"
    return "unpack gtFine_trainvaltest.zip beside leftImg8bit_trainvaltest.zip"


def register_cityscapes(root: str | None = None) -> None:
    """Registers cityscapes_drawn_{train,val}, drawn when first loaded; root: None for `datasets_root()`.

    Detectron2's own cityscapes_fine_* then check their folders before they load.
    """
    root = datasets_root() if root is None else root
    for split in SPLITS:
        if f"{FOLDER}_{split}" not in DatasetCatalog:
            register_drawn(f"{FOLDER}_{split}", os.path.join(root, FOLDER), StreetSet(split))
        for task in ("instance_seg", "sem_seg"):
            _check_before_loading(f"cityscapes_fine_{task}_{split}", task)


def register_drawn(name: str, root: str, drawn: StreetSet) -> None:
    """Registers one drawn split under `name`."""
    image_dir, gt_dir = map(str, folders(root, drawn.split))

    def load() -> list[dict]:
        ensure_drawn(root, drawn)
        return load_cityscapes_instances(image_dir, gt_dir, from_json=True, to_polygons=True)

    DatasetCatalog.register(name, load)
    DRAWN_SETS[name] = functools.partial(ensure_drawn, root, drawn)
    MetadataCatalog.get(name).set(
        image_dir=image_dir, gt_dir=gt_dir, evaluator_type="cityscapes_instance", thing_classes=list(THINGS)
    )


def _check_before_loading(name: str, task: str) -> None:
    # DatasetCatalog.get would load the set.
    if name not in DatasetCatalog or hasattr(DatasetCatalog[name], "checked"):
        return
    loader = DatasetCatalog[name]
    metadata = MetadataCatalog.get(name)

    def load() -> list[dict]:
        check_cityscapes(metadata.image_dir, metadata.gt_dir, task)
        return loader()

    vars(load)["checked"] = True
    DatasetCatalog[name] = load
