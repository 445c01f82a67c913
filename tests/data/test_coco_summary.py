"""Counts and error lines of the one pass over an annotation file."""

import copy
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrcnn_plugin.data import coco_summary
from mrcnn_plugin.data.coco_summary import summarize
from mrcnn_plugin.errors import DatasetError


def save(tmp_path, dataset):
    path = tmp_path / "annotations.json"
    path.write_text(dataset if isinstance(dataset, str) else json.dumps(dataset))
    return path


def test_counts(tmp_path, coco):
    coco["images"].append({"id": 3, "file_name": "sub/3.jpg", "width": 60, "height": 40})
    box = coco["annotations"][0]
    coco["annotations"] += [
        box | {"id": 4, "bbox": [5, 5, 0, 20]},
        box | {"id": 5, "bbox": [60, 5, 20, 20]},
        box | {"id": 6, "segmentation": [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6]]},
        box | {"id": 7, "segmentation": []},
        box | {"id": 8, "segmentation": {"size": [40, 60], "counts": "abc"}},
        box | {"id": 9, "image_id": 77},
    ]
    summary = summarize(save(tmp_path, coco))
    assert summary.class_names == ["cat", "dog"]
    assert [vars(counts) for counts in summary.classes] == [
        {"images": 2, "instances": 6, "crowd": 1, "keypoints": 0},
        {"images": 1, "instances": 1, "crowd": 0, "keypoints": 0},
    ]
    assert (summary.images, summary.instances, summary.crowd, summary.empty_images) == (3, 7, 1, 1)
    assert (summary.degenerate_boxes, summary.short_polygons, summary.orphans) == (2, 1, 1)
    assert (summary.no_mask, summary.rle_mask, summary.no_keypoints) == (1, 1, 7)
    assert summary.files == {"": ["1.jpg", "2.jpg"], "sub": ["3.jpg"]}


def test_keypoints_are_counted(tmp_path, coco):
    coco["categories"][1] |= {"keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}
    coco["annotations"][0] |= {"keypoints": [5, 6, 2, 0, 0, 0]}
    coco["annotations"][2] |= {"keypoints": [0, 0, 0, 0, 0, 0]}
    summary = summarize(save(tmp_path, coco))
    assert [counts.keypoints for counts in summary.classes] == [1, 0]
    assert summary.no_keypoints == 1
    assert summary.categories[0] == {
        "id": 4,
        "name": "cat",
        "keypoints": ["nose", "tail"],
        "skeleton": [[1, 2]],
    }


def test_test_sets_and_lvis_file_names(tmp_path, coco):
    del coco["annotations"]
    coco["images"] = [{"id": 1, "width": 6, "height": 4, "coco_url": "http://images.net/val2017/007.jpg"}]
    summary = summarize(save(tmp_path, coco), lvis=True)
    assert not summary.annotated
    assert summary.files == {"val2017": ["007.jpg"]}


def test_unchanged_files_are_read_once(tmp_path, coco, monkeypatch):
    path = save(tmp_path, coco)
    first = summarize(path)
    with monkeypatch.context() as patch:
        patch.setattr(coco_summary, "read_json", lambda path: pytest.fail("read again"))
        assert summarize(path) == first
    del coco["annotations"][1]
    save(tmp_path, coco)
    assert summarize(path).instances == 1
    os.utime(path, ns=(1, 1))
    (cached, *_) = (tmp_path / "cache").iterdir()
    cached.write_text("{}")
    assert summarize(path).instances == 1


def test_the_newest_summaries_are_kept(tmp_path, coco, monkeypatch):
    monkeypatch.setattr(coco_summary, "KEPT", 3)
    cache = tmp_path / "cache"
    of_version = {}
    for version in range(5):
        path = save(tmp_path, coco | {"info": {"version": str(version)}})
        os.utime(path, ns=(version, version))
        before = set(cache.glob("*"))
        summarize(path, cache_dir=cache)
        (new,) = set(cache.glob("*")) - before
        os.utime(new, ns=(version, version))
        of_version[version] = new
    assert set(cache.glob("*")) == {of_version[version] for version in (2, 3, 4)}


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, coco):
    path = save(tmp_path, coco)
    summarize(path)
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_text('{"categories": 3')
    assert summarize(path).instances == 2
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert summarize(path, cache_dir=blocked / "cache").instances == 2


def without(entry, key):
    return {k: v for k, v in entry.items() if k != key}


def change(dataset, key, index, **values):
    dataset[key][index] |= values
    return dataset


ERRORS = {
    "cut short": (
        lambda d: json.dumps(d, indent=1)[:-30],
        r"json:\d+:\d+: malformed JSON \(.*; fix that line",
    ),
    "line and column": (
        lambda d: '{"images": [],\n "x" 1}',
        r"json:2:6: malformed JSON \(Expecting ':' delimiter\)",
    ),
    "a list": (lambda d: [d], "expected COCO's object of lists, got a list"),
    "no images": (lambda d: without(d, "images"), 'has no list "images"; COCO format needs'),
    "no categories": (lambda d: without(d, "categories"), 'has no list "categories"'),
    "annotations not a list": (lambda d: d | {"annotations": {}}, 'has no list "annotations"'),
    "no object": (lambda d: d | {"annotations": [3]}, r"annotations\[0\] is not an object; remove it"),
    "no id": (
        lambda d: d | {"images": [{"width": 3}]},
        r'images\[0\] has no "id"; add it or remove the image',
    ),
    "no bbox": (
        lambda d: d | {"annotations": [without(d["annotations"][1], "bbox")]},
        'annotation 2 has no "bbox"; add it or remove the annotation',
    ),
    "no name": (lambda d: d | {"categories": [{"id": 1}]}, 'category 1 has no "name"'),
    "text id": (lambda d: change(d, "images", 0, id="a"), "image a has the \"id\" 'a', expected an integer"),
    "text category": (
        lambda d: change(d, "annotations", 0, category_id="cat"),
        "\"category_id\" 'cat', expected an integer",
    ),
    "list image_id": (
        lambda d: change(d, "annotations", 0, image_id=[1]),
        r'"image_id" \[1\], expected an integer',
    ),
    "no file_name": (
        lambda d: d | {"images": [without(d["images"][0], "file_name")]},
        'image 1 has no "file_name"; add it or remove the image',
    ),
    "duplicate image": (
        lambda d: change(d, "images", 1, id=1),
        "two entries of images have the id 1; number them",
    ),
    "duplicate annotation": (
        lambda d: change(d, "annotations", 1, id=1),
        "two entries of annotations have the id 1",
    ),
    "unknown category": (
        lambda d: change(d, "annotations", 1, category_id=99),
        'annotation 2 has category_id 99, which is not in "categories"; add that category or fix',
    ),
    "ignore": (
        lambda d: change(d, "annotations", 0, ignore=1),
        'annotation 1 has "ignore".*use "iscrowd": 1',
    ),
    "short bbox": (
        lambda d: change(d, "annotations", 0, bbox=[1, 2, 3]),
        r"annotation 1 has the bbox \[1, 2, 3\]",
    ),
    "NaN bbox": (
        lambda d: change(d, "annotations", 0, bbox=[1, 2, 3, float("nan")]),
        r"has the bbox \[1, 2, 3, nan\]",
    ),
    "text bbox": (lambda d: change(d, "annotations", 0, bbox="1 2 3 4"), "has the bbox '1 2 3 4'"),
    "unknown keypoints": (
        lambda d: change(d, "annotations", 0, keypoints=[1, 2, 2]),
        "annotation 1 has 3 keypoint numbers, but its category 'cat' names 0 keypoints",
    ),
    "keypoints not numbers": (
        lambda d: change(d, "annotations", 0, keypoints=[1, 2, None]),
        r"annotation 1 has the keypoints \[1, 2, None\], expected numbers",
    ),
    "flat polygon": (
        lambda d: change(d, "annotations", 0, segmentation=[1, 2, 3, 4, 5, 6]),
        r"annotation 1 has the segmentation \[1, 2, 3, 4, 5, 6\], expected a list of polygons",
    ),
    "points in pairs": (
        lambda d: change(d, "annotations", 0, segmentation=[[[1, 2], [3, 4], [5, 6]]]),
        r"segmentation \[\[\[1, 2\], \[3, 4\], \[5, 6\]\]\], expected a list of polygons",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line_with_the_file_and_a_fix(tmp_path, coco, case):
    spoil, message = ERRORS[case]
    path = save(tmp_path, spoil(coco))
    with pytest.raises(DatasetError, match=message) as error:
        summarize(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.json: no such annotation file"):
        summarize(tmp_path / "nowhere.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        summarize(tmp_path)
    (tmp_path / "zipped.json").write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(DatasetError, match=r"zipped\.json: not UTF-8 text \(byte 1\)"):
        summarize(tmp_path / "zipped.json")


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 99) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_spoilt_entry_is_counted_or_a_dataset_error(tmp_path, coco, data):
    """Whatever stands in place of any one value, the pass ends in a summary or in an error of one line."""
    dataset = copy.deepcopy(coco)
    dataset["categories"][1] |= {"keypoints": ["nose"]}
    dataset["annotations"][0] |= {"keypoints": [1, 2, 2]}
    key = data.draw(st.sampled_from(sorted(dataset)))
    entry = data.draw(st.sampled_from(dataset[key]))
    entry[data.draw(st.sampled_from(sorted(entry)))] = data.draw(junk)
    path = save(tmp_path, dataset)
    try:
        summary = summarize(path, cache_dir=path / "none")
    except DatasetError as error:
        message = str(error)
    else:
        message = ""
        assert summary.images == 2
    assert "\n" not in message


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}"])
def test_json_without_end_is_one_line(tmp_path, text):
    with pytest.raises(DatasetError, match=r"annotations\.json: its JSON cannot be read") as error:
        summarize(save(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [10**400, 2**63, float("nan"), float("inf")])
def test_numbers_that_no_tensor_holds(tmp_path, coco, value):
    coco["images"][0]["width"] = value
    with pytest.raises(DatasetError, match=r'has the "width" .*, expected a number'):
        summarize(save(tmp_path, coco))


def test_a_box_beyond_floating_point(tmp_path, coco):
    coco["annotations"][0]["bbox"] = [0, 0, 10**400, 5]
    with pytest.raises(DatasetError, match="has the bbox"):
        summarize(save(tmp_path, coco))
