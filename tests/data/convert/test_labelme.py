"""LabelMe folders, drawn and read back."""

import base64
import io
import json
import math

import numpy as np
import pytest
from helpers.drawn_annotations import (
    ORIENTATION_TAG,
    assert_equals_drawn,
    drawn_set,
    iou,
    load,
    name_of,
    save_picture,
)
from PIL import Image

from mrcnn_plugin.data.convert import Options, read_labelme, write_coco
from mrcnn_plugin.data.convert.labelme import circle
from mrcnn_plugin.errors import DatasetError


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def shape(label, points, kind="polygon", group=None, **more):
    points = np.asarray(points).tolist()
    return {"label": label, "points": points, "shape_type": kind, "group_id": group, "flags": {}} | more


def write_json(root, picture, shapes, **more):
    path = (root / picture.name).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": path.with_suffix(".png").name,
        "imageData": None,
        "imageHeight": picture.height,
        "imageWidth": picture.width,
    }
    path.write_text(json.dumps(content | more, ensure_ascii=False), encoding="utf-8")
    return path


def write_labelme(root, drawn):
    for picture in drawn:
        save_picture(root / picture.name, picture.pixels())
        write_json(root, picture, [shape(label, polygon) for label, polygon in picture.instances])
    return root


@pytest.fixture
def first():
    return drawn_set()[0]


@pytest.fixture
def only(tmp_path, first):
    """Writes one picture with the given shapes; its only instance's mask, or all instances."""

    def only(*shapes, **more):
        root = tmp_path / "labelme"
        save_picture(root / first.name, first.pixels())
        write_json(root, first, list(shapes), **more)
        return root

    return only


def masks_of(root, tmp_path, options=None):
    written = write_coco(read_labelme(root, options or Options()), tmp_path / "masks.json", overwrite=True)
    return load(name_of(written))["first.png"][1]


@pytest.mark.parametrize("masks", ["auto", "rle"])
def test_round_trip(tmp_path, masks):
    root = write_labelme(tmp_path / "labelme", drawn_set())
    found = read_labelme(root, Options(masks=masks))
    assert not any(found.skipped.values())
    assert found.categories == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "out.json")), drawn_set())


def test_classes_in_a_given_order(tmp_path):
    root = write_labelme(tmp_path / "labelme", drawn_set())
    found = read_labelme(root, Options(classes=("dog", "bird", "cat")))
    assert [category["name"] for category in found.categories] == ["dog", "bird", "cat"]
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "out.json")), drawn_set())
    with pytest.raises(DatasetError, match=r"first.json shapes\[0\] 'cat': not one of the --classes dog"):
        read_labelme(root, Options(classes=("dog",)))


def test_rectangles_from_any_two_corners_or_from_four(only, tmp_path):
    corners = [[9, 30], [20, 12]]
    four = [[9, 12], [20, 12], [20, 30], [9, 30]]
    root = only(shape("cat", corners, "rectangle"), shape("cat", four, "rectangle"))
    expected = np.zeros((48, 64), bool)
    expected[12:30, 9:20] = True
    first, second = (mask for _, mask in masks_of(root, tmp_path))
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected)


def test_circles_reach_their_rim(only, tmp_path):
    ((_, mask),) = masks_of(only(shape("cat", [[30, 24], [42, 29]], "circle")), tmp_path)
    rows, columns = np.mgrid[:48, :64] + 0.5
    assert iou(mask, (columns - 30) ** 2 + (rows - 24) ** 2 <= 13**2) > 0.98


@pytest.mark.parametrize("radius", [0.0, 0.01, 0.3, 5.0, 4000.0])
def test_circles_have_the_area_and_the_rim(radius):
    polygon = circle(np.array([3.0, 4.0]), np.array([3.0 + radius, 4.0]))
    x, y = polygon.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    # Coordinates of 1e3 leave about 1e-9 of the area to rounding.
    assert area == pytest.approx(math.pi * radius**2, rel=1e-6, abs=1e-9)
    assert np.abs(np.hypot(x - 3, y - 4) - radius).max() <= 0.06


def test_parts_of_a_group_are_one_instance(only, tmp_path):
    """Of one label: another label's shapes with the same number are another instance."""
    a, b = [[2, 2], [10, 2], [10, 10], [2, 10]], [[20, 20], [30, 20], [30, 30], [20, 30]]
    root = only(
        shape("cat", a, group=1), shape("dog", b, group=1), shape("cat", b, group=1), shape("cat", a, group=2)
    )
    found = masks_of(root, tmp_path)
    assert [(label, int(mask.sum())) for label, mask in found] == [("cat", 164), ("dog", 100), ("cat", 64)]


def test_masks_join_polygons_of_their_group(only, tmp_path):
    """The two points of a mask are its first and its last pixel."""
    part = np.zeros((5, 4), bool)
    part[1:4, 1:] = True
    mask_shape = shape("cat", [[10, 20], [13, 24]], "mask", 5, mask=png(part))
    polygon = shape("cat", [[30, 30], [34, 30], [34, 33], [30, 33]], group=5)
    ((_, mask),) = masks_of(only(mask_shape, polygon), tmp_path)
    expected = np.zeros((48, 64), bool)
    expected[21:24, 11:14] = expected[30:33, 30:34] = True
    np.testing.assert_array_equal(mask, expected)


def test_what_is_left_out_is_named(only):
    root = only(
        shape("cat", [[3, 3]], "point"),
        shape("cat", [[3, 3], [9, 9]], "line"),
        shape("__ignore__", [[3, 3], [9, 9], [3, 9]]),
        shape("dog", [[3, 3], [9, 9]], "rectangle"),
    )
    (root / "settings.json").write_text("{}")
    save_picture(root / "later.png", np.zeros((4, 4, 3), np.uint8))
    found = read_labelme(root)
    path = root / "first.json"
    assert found.skipped == {
        "shapes of type point, which have no area": [f"{path} shapes[0] 'cat'"],
        "shapes of type line, which have no area": [f"{path} shapes[1] 'cat'"],
        "shapes labelled as no object": [f"{path} shapes[2] '__ignore__'"],
        "JSON files without shapes, not LabelMe's": [str(root / "settings.json")],
        "pictures without a JSON file, not annotated": [str(root / "later.png")],
    }
    assert [category["name"] for category in found.categories] == ["dog"]


def test_embedded_pictures_are_written_out(tmp_path):
    """Two files that name the same picture, which is nowhere, embed two."""
    root, drawn = tmp_path / "labelme", drawn_set()
    for picture in drawn:
        shapes = [shape(label, polygon) for label, polygon in picture.instances]
        write_json(root, picture, shapes, imagePath="C:\\pictures\\a.jpg", imageData=png(picture.pixels()))
    found = read_labelme(root)
    with pytest.raises(DatasetError, match=r"only embedded in its annotations \(of 3\); .* --copy-images"):
        write_coco(found, tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()
    written = write_coco(found, tmp_path / "out.json", copy_images=tmp_path / "copies")
    assert_equals_drawn(name_of(written), drawn)


def test_pictures_by_paths_of_windows_and_of_other_folders(tmp_path, first):
    root = tmp_path / "labelme"
    save_picture(root / "pictures/first.png", first.pixels())
    shapes = [shape(label, polygon) for label, polygon in first.instances]
    path = write_json(root / "json", first, shapes, imagePath="..\\pictures\\first.png")
    written = write_coco(read_labelme(root), tmp_path / "a.json")
    assert_equals_drawn(name_of(written), [first], prefix="pictures/")
    # The folder annotated elsewhere was moved: the picture beside the JSON file is meant. A source of the
    # JSON files alone has its pictures outside.
    written = write_coco(read_labelme(root / "json"), tmp_path / "b.json")
    assert_equals_drawn(name_of(written), [first])
    (root / "pictures/first.png").rename(root / "json/first.png")
    write_json(root / "json", first, shapes, imagePath="/elsewhere/first.png")
    assert_equals_drawn(name_of(write_coco(read_labelme(path.parent), tmp_path / "c.json")), [first])


@pytest.mark.parametrize("orientation", [6, 8])
def test_exif_rotated_pictures(tmp_path, first, orientation):
    """Annotated upright, as LabelMe shows them, or by a tool that shows them as stored."""
    root = tmp_path / "labelme"
    save_picture(root / first.name, first.pixels(), orientation)
    upright = [shape(label, polygon) for label, polygon in first.instances]
    write_json(root, first, upright)
    assert_equals_drawn(name_of(write_coco(read_labelme(root), tmp_path / "a.json")), [first])
    as_stored = {
        6: lambda p: np.stack([p[:, 1], first.width - p[:, 0]], 1),
        8: lambda p: np.stack([first.height - p[:, 1], p[:, 0]], 1),
    }[orientation]
    part = np.ones((2, 5), np.uint8)
    stored = [shape(label, as_stored(polygon)) for label, polygon in first.instances]
    stored[0] = shape("cat", [[20, 50], [24, 51]], "mask", 1, mask=png(part))
    write_json(root, first, stored, imageWidth=first.height, imageHeight=first.width)
    (_, cat), (_, dog) = load(name_of(write_coco(read_labelme(root), tmp_path / "b.json")))["first.png"][1]
    np.testing.assert_array_equal(dog, first.masks()[1][1])
    # The mask's pixels are columns 20..24 and rows 50..51 as stored.
    rows, columns = {6: (slice(20, 25), slice(12, 14)), 8: (slice(20, 25), slice(50, 52))}[orientation]
    expected = np.zeros((48, 64), bool)
    if orientation == 8:
        rows = slice(first.height - 25, first.height - 20)
    expected[rows, columns] = True
    np.testing.assert_array_equal(cat, expected)
    assert Image.open(root / first.name).getexif()[ORIENTATION_TAG] == orientation


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([shape("cat", [[1, 1], [2, 2]])], r"shapes\[0\] 'cat' is a polygon of 2 points"),
        ([shape("cat", [[1, 1]], "circle")], "is a circle of 1 points"),
        ([shape("cat", [1, 2, 3])], r'has no "points" \[\[x, y\], ...\]'),
        ([shape("cat", [[1, None], [2, 2], [3, 3]])], 'has no "points"'),
        ([{"points": []}], r'shapes\[0\] has no "label"'),
        (["cat"], r'shapes\[0\] has no "label"'),
        ({"a": 1}, '"shapes" must be a list'),
        ([shape("cat", [[1, 1], [9, 2], [9, 9]], group=[1])], "has no group_id of a number"),
        ([shape("cat", [[1, 1], [1e30, 2]], "circle")], "lies far outside of the picture"),
        ([shape("cat", [[1, 1], [2, 2]], "mask", mask="?")], "is not base64"),
        ([shape("cat", [[1, 1], [2, 2]], "mask", mask="AAAA")], "holds no picture"),
        ([shape("cat", [[1, 1], [2, 2]], "mask", mask=png(np.ones((4, 5), bool)))], "is 5 x 4, but .* 2 x 2"),
        (
            [shape("cat", [[60, 1], [64, 4]], "mask", mask=png(np.ones((4, 5), bool)))],
            "reaches out of the picture",
        ),
    ],
)
def test_malformed_shapes(tmp_path, first, shapes, message):
    save_picture(tmp_path / first.name, first.pixels())
    write_json(tmp_path, first, shapes)
    with pytest.raises(DatasetError, match=rf"first.json: .*{message}"):
        read_labelme(tmp_path)


def test_malformed_files(tmp_path, first):
    path = write_json(tmp_path, first, [])
    with pytest.raises(DatasetError, match=r"first.png: no such picture; .* --skip-missing"):
        read_labelme(tmp_path)
    with pytest.raises(DatasetError, match=r"no annotated picture found \(1 pictures that are missing"):
        read_labelme(tmp_path, Options(skip_missing=True))
    save_picture(tmp_path / first.name, first.pixels())
    write_json(tmp_path, first, [], imageWidth=99)
    with pytest.raises(DatasetError, match=r"first.json: made for a picture of 99 x 48 pixels"):
        read_labelme(tmp_path)
    write_json(tmp_path, first, [], imagePath=None)
    with pytest.raises(DatasetError, match=r'first.json: has no "imagePath"'):
        read_labelme(tmp_path)
    path.write_text('{"shapes": [')
    with pytest.raises(DatasetError, match=r"first.json:1:13: malformed JSON"):
        read_labelme(tmp_path)


def test_a_mask_that_is_cut_short(tmp_path, first):
    whole = base64.b64decode(png(np.random.default_rng(0).integers(0, 255, (30, 30), dtype=np.uint8)))
    cut = base64.b64encode(whole[: len(whole) // 2]).decode()
    save_picture(tmp_path / first.name, first.pixels())
    write_json(tmp_path, first, [shape("a", [[1, 1], [30, 30]], "mask", mask=cut)])
    with pytest.raises(DatasetError, match=r"the mask of shapes\[0\] 'a' cannot be read"):
        read_labelme(tmp_path)
