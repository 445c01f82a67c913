"""YOLO segmentation folders, drawn and read back."""

import numpy as np
import pytest
import yaml
from helpers.drawn_annotations import assert_equals_drawn, drawn_set, load, name_of, save_picture
from hypothesis import given
from hypothesis import strategies as st

from mrcnn_plugin.data.convert import Options, read_yolo, write_coco
from mrcnn_plugin.data.convert.yolo import label_path, parse_line
from mrcnn_plugin.errors import DatasetError

CLASSES = ["cat", "dog"]


def label_line(index, polygon, width, height):
    return f"{index} " + " ".join(f"{value:.6f}" for value in (polygon / (width, height)).ravel())


def write_yolo(root, drawn, folder="", config=None):
    """images/, labels/ and data.yaml; `folder` is a subset's, below both."""
    for picture in drawn:
        save_picture(root / "images" / folder / picture.name, picture.pixels())
        lines = [
            label_line(CLASSES.index(label), polygon, picture.width, picture.height)
            for label, polygon in picture.instances
        ]
        path = (root / "labels" / folder / picture.name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines))
    config = {"names": CLASSES} if config is None else config
    (root / "data.yaml").write_text(yaml.safe_dump(config))
    return root


@pytest.fixture
def root(tmp_path):
    return write_yolo(tmp_path / "yolo", drawn_set())


@pytest.mark.parametrize("masks", ["auto", "rle"])
def test_round_trip(root, tmp_path, masks):
    """The empty label file's picture is kept, without instances."""
    found = read_yolo(root, Options(masks=masks))
    assert not any(found.skipped.values())
    assert not found.notes
    assert found.categories == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "out.json")), drawn_set(), prefix="images/")


def test_class_indices_are_kept_from_a_mapping(root, tmp_path):
    config = {"names": {3: "dog", 0: "cat", 7: "never"}, "nc": 3}
    (root / "data.yaml").write_text(yaml.safe_dump(config))
    label = root / "labels/first.txt"
    label.write_text(label.read_text().replace("\n1 ", "\n3 "))
    (root / "labels/deep/ядро 2.txt").unlink()
    found = read_yolo(root / "data.yaml")
    assert [(c["id"], c["name"]) for c in found.categories] == [(0, "cat"), (3, "dog"), (7, "never")]
    assert [entry["category_id"] for entry in found.annotations] == [0, 3]
    loaded = load(name_of(write_coco(found, tmp_path / "out.json")))
    assert [label for label, _ in loaded["images/first.png"][1]] == ["cat", "dog"]
    assert loaded["images/deep/ядро 2.png"][1] == []
    (note,) = found.notes
    assert found.notes[note] == [str(root / "images/deep/ядро 2.png")]
    assert note.startswith("pictures without a label file")


def test_subsets_of_data_yaml_become_files(tmp_path):
    first, second, empty = drawn_set()
    config = {"names": CLASSES, "path": ".", "train": "images/train", "val": ["images/val"], "test": None}
    root = write_yolo(tmp_path / "yolo", [first, empty], "train", config)
    write_yolo(root, [second], "val", config)
    written = write_coco(read_yolo(root), tmp_path / "out.json")
    assert [path.name for path, _ in written] == ["out_train.json", "out_val.json"]
    assert_equals_drawn(name_of(written, 0), [first, empty], prefix="images/train/")
    assert_equals_drawn(name_of(written, 1), [second], prefix="images/val/")


def test_lists_of_pictures_and_classes_txt(root, tmp_path):
    (root / "list.txt").write_text("images/first.png\n./images/empty.png\n\n", encoding="utf-8")
    (root / "data.yaml").write_text(yaml.safe_dump({"names": CLASSES, "train": "list.txt"}))
    found = read_yolo(root)
    assert [found.pictures[image["id"]].path.name for image in found.images] == ["first.png", "empty.png"]
    assert found.skipped["label files without a picture"] == [str(root / "labels/deep/ядро 2.txt")]
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    assert len(read_yolo(root).images) == 3


def test_paths_of_exports_that_do_not_exist_here(tmp_path):
    """Roboflow's ../train/images is the folder train/images; `path` of another machine is not used."""
    first, *_ = drawn_set()
    root = tmp_path / "yolo"
    config = {"names": CLASSES, "path": "/nowhere/else", "train": "../train/images"}
    write_yolo(root / "train", [first])
    (root / "data.yaml").write_text(yaml.safe_dump(config))
    found = read_yolo(root)
    assert len(found.annotations) == 2
    assert list(found.notes.values()) == [[str(root / "data.yaml")]]


def test_boxes_are_an_error_or_rectangles(root):
    label = root / "labels/first.txt"
    label.write_text("1 0.5 0.5 0.25 0.5\n")
    with pytest.raises(DatasetError, match=r"first.txt:1: a box, not a polygon; .* --boxes rectangle"):
        read_yolo(root)
    entry = next(e for e in read_yolo(root, Options(boxes=True)).annotations if e["area"] == 16 * 24)
    assert (entry["category_id"], entry["bbox"]) == (1, [24, 12, 16, 24])


def test_what_is_left_out_is_named(root):
    label = root / "labels/first.txt"
    line = label.read_text().splitlines()[0]
    tiny = "0 " + " ".join(f"{value / 64}" for value in (1.6, 1.6, 1.9, 1.6, 1.9, 1.9))
    label.write_text("\n".join([line, line, "", tiny]))
    (root / "labels/stray.txt").write_text(line)
    found = read_yolo(root)
    assert found.skipped["lines that repeat another"] == [f"{label}:2"]
    assert found.skipped["masks that cover no pixel"] == [f"{label}:4"]
    assert found.skipped["label files without a picture"] == [str(root / "labels/stray.txt")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cat 0.1 0.1 0.2 0.2 0.3 0.3", "expected a class index and numbers, got 'cat"),
        ("0 0.1 0.1 nan 0.2 0.3 0.3", "expected a class index and numbers"),
        ("0.5 0.1 0.1 0.1 0.2 0.3 0.3", "expected a class index and numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3", "3 points or more, got 5 numbers"),
        ("0", "3 points or more, got 0 numbers"),
        ("0 10 10 20 20 30 5", r"coordinates from 5 to 30, .* divide pixels"),
        ("5 0.1 0.1 0.1 0.2 0.3 0.3", r"class 5, but `names` has 0 to 1"),
    ],
)
def test_malformed_lines(root, line, message):
    (root / "labels/first.txt").write_text(f"\n{line}\n")
    with pytest.raises(DatasetError, match=rf"first.txt:2: .*{message}"):
        read_yolo(root)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("names: [a", "malformed YAML"),
        ("- a", "expected `names"),
        ("nc: 2", "expected `names`, a list or"),
        ("names: []", "`names` is empty"),
        ("names: [a]\nnc: 2", "nc is 2, but names has 1"),
        ("names: [a]\nkpt_shape: [17, 3]", "poses"),
        ("names: [cat, dog]\ntrain: images/none", "train is images/none, but there is no"),
    ],
)
def test_malformed_data_yaml(root, config, message):
    (root / "data.yaml").write_text(config)
    with pytest.raises(DatasetError, match=rf"data.yaml: .*{message}") as error:
        read_yolo(root)
    assert "\n" not in str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError, match="nowhere: no such folder, expected one with images/"):
        read_yolo(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"data.yaml: no such file; add one with `names"):
        read_yolo(tmp_path)
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text("names: [a]")
    with pytest.raises(DatasetError, match=r"which of a.yaml, b.yml"):
        read_yolo(tmp_path)
    (tmp_path / "b.yml").unlink()
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="no annotated picture found; expected images/"):
        read_yolo(tmp_path)


def test_exif_rotated_pictures_are_annotated_upright_unless_told(tmp_path):
    """Ultralytics reads pictures turned; labels of the stored picture need --orientation stored."""
    first, *_ = drawn_set()
    root = write_yolo(tmp_path / "yolo", [first])
    save_picture(root / "images/first.png", first.pixels(), 6)
    found = read_yolo(root)
    assert found.notes == {
        "EXIF-rotated pictures whose annotations were taken as upright (if not: --orientation stored)": [
            str(root / "images/first.png")
        ]
    }
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "a.json")), [first], prefix="images/")
    # Orientation 6: the stored x is the upright y, and the stored y runs against the upright x.
    lines = [
        label_line(CLASSES.index(label), np.stack([p[:, 1], first.width - p[:, 0]], 1), 48, 64)
        for label, p in first.instances
    ]
    (root / "labels/first.txt").write_text("\n".join(lines))
    found = read_yolo(root, Options(orientation="stored"))
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "b.json")), [first], prefix="images/")


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("/a/images/b.jpg", "/a/labels/b.txt"),
        ("/images/images/train/c.d.png", "/images/labels/train/c.d.txt"),
        ("/a/pictures/images.png", "/a/pictures/images.txt"),
    ],
)
def test_labels_lie_where_yolo_looks_for_them(tmp_path, picture, label):
    assert str(label_path(tmp_path.__class__(picture))) == label


@given(st.integers(0, 99), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=9))
def test_lines_are_parsed_as_written(index, points):
    line = f"{index} " + " ".join(f"{x!r} {y!r}" for x, y in points)
    parsed_index, parsed = parse_line(line, "label", boxes=False)
    assert parsed_index == index
    np.testing.assert_array_equal(parsed, points)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a0: &a0 [x, x]\n"
            + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
            + "names: *a39",
            "aliases stand for more than",
        ),
        ("names: &a [*a]", "aliases stand for more than"),
        ("names: {.inf: cat}", "expected `names`, a list or {index: name}, got {inf: 'cat'}"),
        ("names: 2001-99-99", "malformed YAML"),
        ("names: " + 5000 * "9", "malformed YAML"),
        ("names: " + 5000 * "[", "malformed YAML"),
    ],
)
def test_yaml_that_has_no_end_or_no_meaning(root, text, message):
    (root / "data.yaml").write_text(text)
    with pytest.raises(DatasetError) as error:
        read_yolo(root)
    assert message in str(error.value)
    assert len(str(error.value)) < 1000
