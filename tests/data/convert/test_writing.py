"""COCO files: splits, copies, and never half of one."""

import json

import numpy as np
import pytest
from helpers.drawn_annotations import assert_equals_drawn, drawn_set, name_of, save_picture
from PIL import Image

from mrcnn_plugin.data.convert import AnnotationSet, write_coco
from mrcnn_plugin.data.convert.masks import segment_polygons
from mrcnn_plugin.data.convert.pictures import read_picture
from mrcnn_plugin.errors import DatasetError


def annotated(root, drawn, subsets=None):
    """The drawn pictures as a reader gives them."""
    found = AnnotationSet(root, [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}])
    for index, picture in enumerate(drawn):
        save_picture(root / picture.name, picture.pixels())
        subset = subsets[index] if subsets else None
        image_id = found.add_picture(read_picture(root / picture.name), subset=subset)
        for label, polygon in picture.instances:
            fields = segment_polygons([polygon], picture.height, picture.width)
            found.add_instance(image_id, {"cat": 1, "dog": 2}[label], fields, label)
    return found


def many(root, count=20):
    found = AnnotationSet(root, [{"id": 1, "name": "cat"}])
    for index in range(count):
        save_picture(root / f"{index:02}.png", np.zeros((4, 4, 3), np.uint8))
        found.add_picture(read_picture(root / f"{index:02}.png"))
    return found


def file_names(path):
    return [image["file_name"] for image in json.loads(path.read_text())["images"]]


def test_in_place(tmp_path):
    written = write_coco(annotated(tmp_path / "a", drawn_set()), tmp_path / "new/folder/out.json")
    assert written == [(tmp_path / "new/folder/out.json", tmp_path / "a")]
    assert_equals_drawn(name_of(written), drawn_set())
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["out.json"]


def test_split_by_seed(tmp_path):
    found = many(tmp_path / "a")
    splits = {}
    for seed in (0, 0, 1):
        written = write_coco(found, tmp_path / "out.json", val_fraction=0.25, seed=seed, overwrite=True)
        assert [path.name for path, _ in written] == ["out_train.json", "out_val.json"]
        train, val = (file_names(path) for path, _ in written)
        assert (len(train), len(val)) == (15, 5)
        assert sorted(train + val) == [f"{index:02}.png" for index in range(20)]
        assert splits.setdefault(seed, val) == val
    assert splits[0] != splits[1]


def test_the_split_depends_on_names_alone(tmp_path):
    """Not on the order of reading, nor on the place."""
    found, moved = many(tmp_path / "a"), many(tmp_path / "b")
    moved.images.reverse()
    ((_, _), (val, _)) = write_coco(found, tmp_path / "a.json", val_fraction=0.3)
    ((_, _), (other, _)) = write_coco(moved, tmp_path / "b.json", val_fraction=0.3)
    assert sorted(file_names(val)) == sorted(file_names(other))


def test_both_sides_get_a_picture_and_all_classes(tmp_path):
    first, _, empty = drawn_set()
    found = annotated(tmp_path / "a", [first, empty])
    for fraction in (0.01, 0.99):
        written = write_coco(found, tmp_path / "out.json", val_fraction=fraction, overwrite=True)
        for path, _ in written:
            assert len(file_names(path)) == 1
            assert [c["name"] for c in json.loads(path.read_text())["categories"]] == ["cat", "dog"]
    with pytest.raises(DatasetError, match="must be between 0 and 1, got 1"):
        write_coco(found, tmp_path / "new.json", val_fraction=1.0)
    with pytest.raises(DatasetError, match="one picture cannot be split"):
        write_coco(annotated(tmp_path / "b", [first]), tmp_path / "new.json", val_fraction=0.5)


def test_subsets_of_the_source(tmp_path):
    found = annotated(tmp_path / "a", drawn_set(), ["val", "train", "val"])
    written = write_coco(found, tmp_path / "out.json")
    assert {path.name: len(file_names(path)) for path, _ in written} == {
        "out_val.json": 2,
        "out_train.json": 1,
    }
    ((path, _),) = write_coco(found, tmp_path / "one.json", one_file=True)
    assert len(file_names(path)) == 3
    written = write_coco(found, tmp_path / "drawn.json", val_fraction=0.3)
    assert [len(file_names(path)) for path, _ in written] == [2, 1]


def test_copies(tmp_path):
    """Unchanged, under the same names; a second time nothing is written."""
    found = annotated(tmp_path / "a", drawn_set())
    written = write_coco(found, tmp_path / "out.json", copy_images=tmp_path / "copies")
    assert written[0][1] == tmp_path / "copies"
    assert_equals_drawn(name_of(written), drawn_set())
    copy = tmp_path / "copies/deep/ядро 2.png"
    assert copy.read_bytes() == (tmp_path / "a/deep/ядро 2.png").read_bytes()
    before = copy.stat().st_mtime_ns
    write_coco(found, tmp_path / "out.json", copy_images=tmp_path / "copies", overwrite=True)
    assert copy.stat().st_mtime_ns == before
    assert not list(tmp_path.rglob(".*"))


def test_nothing_is_replaced_unasked(tmp_path):
    found = annotated(tmp_path / "a", drawn_set())
    out = tmp_path / "out.json"
    out.write_text("mine")
    with pytest.raises(DatasetError, match=r"out.json: exists; give another name, or --overwrite"):
        write_coco(found, out)
    copy = tmp_path / "copies/first.png"
    save_picture(copy, np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"copies/first.png: exists and is another picture"):
        write_coco(found, tmp_path / "new.json", copy_images=tmp_path / "copies")
    assert not (tmp_path / "new.json").exists()
    assert out.read_text() == "mine"
    write_coco(found, out, copy_images=tmp_path / "copies", overwrite=True)
    assert Image.open(copy).size == (64, 48)


def test_an_interruption_leaves_no_json(tmp_path, monkeypatch):
    found = annotated(tmp_path / "a", drawn_set())

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrcnn_plugin.data.convert.writing.shutil.copyfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_coco(found, tmp_path / "out.json", copy_images=tmp_path / "copies")
    assert not [path for path in (tmp_path / "copies").rglob("*") if path.is_file()]
    assert not (tmp_path / "out.json").exists()


def test_pictures_outside_the_source(tmp_path):
    found = annotated(tmp_path / "a/json", drawn_set()[:1])
    save_picture(tmp_path / "a/pictures/b.png", np.zeros((4, 4, 3), np.uint8))
    found.add_picture(read_picture(tmp_path / "a/pictures/b.png"))
    ((path, root),) = write_coco(found, tmp_path / "out.json")
    assert root == tmp_path / "a"
    assert file_names(path) == ["json/first.png", "pictures/b.png"]


def test_names_that_cannot_be_used(tmp_path):
    found = annotated(tmp_path / "a:b", drawn_set())
    with pytest.raises(DatasetError, match=r"a:b: coco:.* can name no folder with a colon"):
        write_coco(found, tmp_path / "out.json")
    assert_equals_drawn(
        name_of(write_coco(found, tmp_path / "o.json", copy_images=tmp_path / "c")), drawn_set()
    )
    with pytest.raises(DatasetError, match=r"out.txt: the output must end in .json"):
        write_coco(found, tmp_path / "out.txt")
