# First, since it adapts Detectron2 for the installed libraries.
import mrcnn_plugin  # noqa: F401

# isort: split

import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("MRCNN_PLUGIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def own_catalogs():
    """What a test registers is forgotten after it."""
    known = set(DatasetCatalog), set(MetadataCatalog)
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), known):
        for name in set(catalog) - names:
            catalog.remove(name)


@pytest.fixture
def coco():
    """A COCO dict: two images of 60 x 40, a cat and a dog in one, a crowd of cats in the other."""
    square = [[5, 5, 25, 5, 25, 25, 5, 25]]
    box = {"bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0, "segmentation": square}
    rle = {"size": [40, 60], "counts": [0, 40 * 30, 40 * 30]}
    return {
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 60, "height": 40} for i in (1, 2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, **box},
            {"id": 2, "image_id": 1, "category_id": 9, **box},
            {"id": 3, "image_id": 2, "category_id": 4, **box, "iscrowd": 1, "segmentation": rle},
        ],
    }


@pytest.fixture
def write(tmp_path):
    """Writes a COCO dict (or text) and its images; the name of the data set."""

    def write(dataset, file_name="annotations.json"):
        json_file, image_root = tmp_path / file_name, tmp_path / "images"
        json_file.write_text(dataset if isinstance(dataset, str) else json.dumps(dataset))
        image_root.mkdir(exist_ok=True)
        for image in dataset["images"] if isinstance(dataset, dict) else ():
            path = image_root / image.get("file_name", "x.jpg")
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.full((image["height"], image["width"], 3), 90, np.uint8))
        return f"coco:{json_file}:{image_root}"

    return write
