"""The held-out part of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from mrcnn_plugin.data import hold_out
from mrcnn_plugin.errors import DatasetError


def ids(name):
    dataset = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())
    return {image["id"] for image in dataset["images"]}, {a["image_id"] for a in dataset["annotations"]}


def many(coco, images):
    """A data set of so many images, each with one annotation."""
    annotation = coco["annotations"][0]
    return {
        **coco,
        "images": [{**coco["images"][0], "id": i, "file_name": f"{i}.jpg"} for i in range(images)],
        "annotations": [{**annotation, "id": i, "image_id": i} for i in range(images)],
    }


def test_parts_are_disjoint_and_the_same_each_time(coco, write, tmp_path):
    name = write(many(coco, 10))
    train, held_out = hold_out(name, tmp_path / "a", fraction=0.3)
    assert len(ids(train)[0]) == 7
    assert len(ids(held_out)[0]) == 3
    assert ids(train)[0].isdisjoint(ids(held_out)[0])
    for part in (train, held_out):
        images, annotated = ids(part)
        assert annotated == images
        assert len(DatasetCatalog.get(part)) == len(images)
        assert MetadataCatalog.get(part).thing_classes == ["cat", "dog"]
    again = hold_out(name, tmp_path / "b", fraction=0.3)
    assert [ids(part) for part in again] == [ids(train), ids(held_out)]
    other = hold_out(name, tmp_path / "c", fraction=0.3, seed=1)
    assert ids(other[1]) != ids(held_out)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_no_part_is_empty(coco, write, tmp_path, fraction):
    parts = hold_out(write(many(coco, 3)), tmp_path / "parts", fraction=fraction)
    assert min(len(ids(part)[0]) for part in parts) == 1


def test_too_few_images(coco, write, tmp_path):
    with pytest.raises(DatasetError, match="1 images with annotations cannot be split"):
        hold_out(write(many(coco, 1)), tmp_path / "parts")


def test_images_without_annotations_are_split_apart(coco, write, tmp_path):
    dataset = many(coco, 10)
    # Of images 2 to 9 none has annotations.
    dataset["annotations"] = dataset["annotations"][:2]
    train, held_out = hold_out(write(dataset), tmp_path / "parts", fraction=0.25)
    for part, images in ((train, 7), (held_out, 3)):
        found, annotated = ids(part)
        assert len(found) == images
        assert len(annotated) == 1
