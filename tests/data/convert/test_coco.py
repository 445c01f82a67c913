"""COCO JSON of others: merged, completed, and read back."""

import json

import numpy as np
import pytest
from helpers.drawn_annotations import (
    assert_equals_drawn,
    drawn_set,
    load,
    name_of,
    save_picture,
    stored_array,
)

from mrcnn_plugin.data.convert import Options, read_coco, write_coco
from mrcnn_plugin.data.convert.coco import as_id, split_source
from mrcnn_plugin.data.convert.masks import segment_mask
from mrcnn_plugin.errors import DatasetError

IDS = {"cat": 4, "dog": 9}


def coco_of(drawn, ids=IDS, first_image=0, first_annotation=1):
    """A COCO dict of drawn pictures, without what the converter completes."""
    dataset = {
        "info": {"year": 2026},
        "categories": [{"id": own, "name": name, "supercategory": "animal"} for name, own in ids.items()],
        "images": [],
        "annotations": [],
    }
    for image_id, picture in enumerate(drawn, first_image):
        dataset["images"].append({"id": image_id, "file_name": picture.name, "license": 3})
        for label, polygon in picture.instances:
            dataset["annotations"].append(
                {
                    "id": first_annotation + len(dataset["annotations"]),
                    "image_id": image_id,
                    "category_id": ids[label],
                    "segmentation": [polygon.ravel().tolist()],
                    "attributes": {"occluded": True},
                }
            )
    return dataset


def write_set(root, drawn, dataset=None):
    """JSON beside images/; its path."""
    for picture in drawn:
        save_picture(root / "images" / picture.name, picture.pixels())
    path = root / "annotations.json"
    path.write_text(json.dumps(coco_of(drawn) if dataset is None else dataset))
    return path


def converted(path):
    return json.loads(path.read_text())


def test_round_trip_completes_and_keeps(tmp_path):
    path = write_set(tmp_path / "a", drawn_set())
    written = write_coco(read_coco([path]), tmp_path / "out.json")
    assert written == [(tmp_path / "out.json", tmp_path / "a/images")]
    assert_equals_drawn(name_of(written), drawn_set())
    dataset = converted(written[0][0])
    assert dataset["info"] == {"year": 2026}
    assert dataset["categories"][1] == {"id": 9, "name": "dog", "supercategory": "animal"}
    assert dataset["images"][0] == {
        "id": 0,
        "file_name": "first.png",
        "license": 3,
        "width": 64,
        "height": 48,
    }
    assert dataset["annotations"][0] == {
        "id": 1,
        "image_id": 0,
        "category_id": 4,
        "iscrowd": 0,
        "attributes": {"occluded": True},
        "segmentation": [[5, 6, 25, 6, 25, 36, 5, 36]],
        "area": 600,
        "bbox": [5, 6, 20, 30],
    }


def test_converting_twice_changes_nothing(tmp_path):
    path = write_set(tmp_path / "a", drawn_set())
    (once, root), *_ = write_coco(read_coco([path]), tmp_path / "once.json")
    (twice, _), *_ = write_coco(read_coco([f"coco:{once}:{root}"]), tmp_path / "twice.json")
    assert converted(once) == converted(twice)


def test_merging_joins_classes_by_name_and_keeps_free_ids(tmp_path):
    first, second, empty = drawn_set()
    write_set(tmp_path / "a", [first])
    ids = {"dog": 4, "bird": 5}
    other = coco_of([second, empty], ids, first_image=0, first_annotation=7)
    write_set(tmp_path / "b", [second, empty], other)
    found = read_coco([f"{tmp_path / side}/annotations.json:{tmp_path / side}/images" for side in "ab"])
    assert [(c["id"], c["name"]) for c in found.categories] == [(4, "cat"), (9, "dog"), (5, "bird")]
    assert [image["id"] for image in found.images] == [0, 2, 1]
    assert [entry["id"] for entry in found.annotations] == [1, 2, 7]
    (names,) = (v for k, v in found.notes.items() if k.startswith("categories with another id"))
    assert names == [f"{tmp_path / 'b/annotations.json'} 'dog' 4 -> 9"]
    loaded = load(name_of(write_coco(found, tmp_path / "out.json")))
    assert set(loaded) == {"a/images/first.png", "b/images/deep/ядро 2.png", "b/images/empty.png"}
    assert [label for label, _ in loaded["b/images/deep/ядро 2.png"][1]] == ["dog"]


def test_a_picture_that_two_files_list_gets_the_annotations_of_both(tmp_path):
    """One that both have counts once."""
    first, *_ = drawn_set()
    path = write_set(tmp_path / "a", [first])
    dataset = coco_of([first])
    dataset["annotations"][1]["category_id"] = IDS["cat"]
    other = tmp_path / "a/other.json"
    other.write_text(json.dumps(dataset))
    found = read_coco([path, other])
    assert len(found.images) == 1
    assert [entry["category_id"] for entry in found.annotations] == [4, 9, 4]
    assert not found.skipped
    assert found.notes["annotations that an earlier file has as well, taken together"] == [
        f"{other} annotation 1"
    ]


def test_keypoints_join_the_masks_of_another_file(tmp_path):
    """As COCO's own instances and person_keypoints files have the same people."""
    first, *_ = drawn_set()
    dataset = coco_of([first])
    # COCO's own files write one number as 5 here and as 5.0 there.
    dataset["annotations"][0]["bbox"] = [5, 6, 20, 30]
    path = write_set(tmp_path / "a", [first], dataset)
    dataset["categories"] = [dataset["categories"][0] | {"keypoints": ["tip"], "skeleton": []}]
    more = {"bbox": [5.0, 6.0, 20.0, 30.0], "keypoints": [7, 8, 2], "num_keypoints": 1}
    dataset["annotations"] = [dataset["annotations"][0] | more]
    other = tmp_path / "a/keypoints.json"
    other.write_text(json.dumps(dataset))
    found = read_coco([path, other])
    assert [entry.get("keypoints") for entry in found.annotations] == [[7, 8, 2], None]
    assert [category.get("keypoints") for category in found.categories] == [["tip"], None]


def test_ids_of_text_and_clashing_ones(tmp_path):
    """Numbers in text are numbers; other text is replaced; an annotation's 0 would not be scored."""
    first, second, empty = drawn_set()
    dataset = coco_of([first, second, empty])
    for image, own in zip(dataset["images"], ["7", "x", 3]):
        image["id"] = own
    for entry, image, own in zip(dataset["annotations"], [7.0, "7", "x"], [0, 5, 5]):
        entry["image_id"], entry["id"] = image, own
    path = write_set(tmp_path / "a", [first, second, empty], dataset)
    found = read_coco([path])
    assert [image["id"] for image in found.images] == [7, 8, 3]
    assert [entry["id"] for entry in found.annotations] == [6, 5, 7]
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "out.json")), drawn_set())


@pytest.mark.parametrize(
    ("value", "own"),
    [(5, 5), ("5", 5), (5.0, 5), ("a", "a"), (0, 0), (True, None), (None, None), (1.5, 1.5), ([], None)],
)
def test_ids(value, own):
    assert as_id(value) == (None if own == 1.5 else own)


def test_left_out_annotations_are_named(tmp_path):
    dataset = coco_of(drawn_set())
    dataset["annotations"][0]["image_id"] = 55
    dataset["annotations"][2]["image_id"] = 3
    dataset["images"].append({"id": 3, "file_name": "gone.png"})
    path = write_set(tmp_path / "a", drawn_set(), dataset)
    with pytest.raises(DatasetError, match=r"images/gone.png: no such picture; .* --skip-missing"):
        read_coco([path])
    found = read_coco([path], Options(skip_missing=True))
    assert found.skipped == {
        "pictures that are missing or cannot be read": [str(tmp_path / "a/images/gone.png")],
        "annotations of images that are not listed": [f"{path} annotation 1"],
        "annotations of pictures that were left out": [f"{path} annotation 3"],
    }
    assert (len(found.images), len(found.annotations)) == (3, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), 'has no list of objects "categories"'),
        (lambda d: d.update(images=[1]), 'has no list of objects "images"'),
        (lambda d: d["categories"][0].pop("name"), r'categories\[0\] needs an "id" and a "name"'),
        (lambda d: d["categories"][0].update(name=[]), r'categories\[0\] needs an "id" and a "name"'),
        (lambda d: d["categories"][0].update(name="dog"), "two categories are called 'dog'"),
        (lambda d: d["categories"][0].update(id=9), "two categories have the id 9"),
        (lambda d: d["images"][1].pop("file_name"), r'images\[1\] needs an "id" and a "file_name"'),
        (lambda d: d["images"][1].update(id=0), "two images have the id 0"),
        (lambda d: d["images"][1].update(width=9, height=9), "image 1: made for a picture of 9 x 9 pixels"),
        (lambda d: d["annotations"][1].update(category_id=8), 'annotation 2: category_id 8 is not in "cat'),
        (lambda d: d["annotations"][1].update(keypoints=[1, 2, 2]), "annotation 2 has 3 keypoint numbers"),
    ],
)
def test_what_cannot_be_completed_is_one_line_that_names_the_file(tmp_path, change, message):
    dataset = coco_of(drawn_set())
    change(dataset)
    path = write_set(tmp_path / "a", drawn_set(), dataset)
    with pytest.raises(DatasetError, match=rf"annotations.json.*{message}") as error:
        read_coco([path])
    assert "\n" not in str(error.value)


def test_sources(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a:b.json").touch()
    root = tmp_path / "x"
    assert split_source(f"coco:{tmp_path}/a.json:{root}") == (tmp_path / "a.json", root)
    assert split_source(f"{tmp_path}/a.json") == (tmp_path / "a.json", tmp_path / "images")
    assert split_source(f"{tmp_path}/a:b.json") == (tmp_path / "a:b.json", tmp_path / "images")
    assert split_source(f"{tmp_path}/c/a.json") == (tmp_path / "c/a.json", tmp_path / "c")


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["polygon", "rle", "counts", "box"])
def test_annotations_of_stored_pictures_are_turned(tmp_path, orientation, kind):
    """Width and height of the JSON are those of the stored picture, or --orientation says so."""
    first = drawn_set()[0]
    labels = [label for label, _ in first.instances]
    stored = [stored_array(mask.astype(np.uint8), orientation).astype(bool) for _, mask in first.masks()]
    height, width = stored[0].shape
    dataset = coco_of([first])
    dataset["images"][0] |= {"width": width, "height": height}
    dataset["categories"][0]["keypoints"] = ["tip"]
    for entry, mask in zip(dataset["annotations"], stored):
        fields = segment_mask(mask, "polygon" if kind == "polygon" else "rle")
        if kind == "counts":
            flat = mask.T.ravel()
            edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
            counts = np.diff([0, *edges, len(flat)]).tolist()
            fields["segmentation"] = {"size": [height, width], "counts": [0] * int(flat[0]) + counts}
        if kind == "box":
            fields["segmentation"] = []
        entry |= fields
    rows, columns = np.nonzero(stored[0])
    dataset["annotations"][0]["keypoints"] = [int(columns[0]), int(rows[0]), 2]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(dataset))
    save_picture(tmp_path / first.name, first.pixels(), orientation)

    choice = "stored" if orientation <= 4 else "auto"
    found = read_coco([path], Options(orientation=choice, boxes=True))
    assert found.images[0]["width"] == first.width
    instances = load(name_of(write_coco(found, tmp_path / "out.json")))[first.name][1]
    assert [label for label, _ in instances] == labels
    for (_, mask), (_, true_mask) in zip(instances, first.masks()):
        np.testing.assert_array_equal(mask, true_mask)
    x, y, seen = found.annotations[0]["keypoints"]
    corner = stored_array(np.zeros((48, 64), np.uint8), orientation).copy()
    corner[rows[0], columns[0]] = 1
    ((true_y, true_x),) = np.argwhere(found.pictures[0].turn.mask(corner))
    assert (x, y, seen) == (true_x, true_y, 2)
