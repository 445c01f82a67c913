"""The layouts of the 2018 Data Science Bowl and of Penn-Fudan, drawn and read back."""

from pathlib import Path

import numpy as np
import pytest
from helpers.drawn_annotations import (
    Drawn,
    assert_equals_drawn,
    drawn_set,
    load,
    name_of,
    save_picture,
    stored_array,
)
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image

from mrcnn_plugin.data.convert import Options, read_dsb2018, read_pennfudan, write_coco
from mrcnn_plugin.data.convert.mask_folders import instance_masks
from mrcnn_plugin.errors import DatasetError


def nuclei() -> list[Drawn]:
    """The drawn set with one class, named as the layout names pictures."""
    result = []
    for index, picture in enumerate(drawn_set()):
        name = f"ядро {index}/images/ядро {index}.png"
        instances = [("nucleus", polygon) for _, polygon in picture.instances]
        result.append(Drawn(name, picture.width, picture.height, instances))
    return result


def write_dsb2018(root, drawn, orientation=1, stored_masks=False):
    for picture in drawn:
        save_picture(root / picture.name, picture.pixels(), orientation)
        folder = (root / picture.name).parents[1] / "masks"
        folder.mkdir()
        for index, (_, mask) in enumerate(picture.masks()):
            array = mask.astype(np.uint8) * 255
            array = stored_array(array, orientation) if stored_masks else array
            Image.fromarray(array).save(folder / f"{index}.png")
    return root


def write_pennfudan(root, drawn, dtype=np.uint8, ids=lambda index: index + 1):
    for picture in drawn:
        save_picture(root / "PNGImages" / picture.name, picture.pixels())
        mask_path = root / "PedMasks" / picture.name.replace(".png", "_mask.png")
        mask_path.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((picture.height, picture.width), dtype)
        for index, (_, mask) in enumerate(picture.masks()):
            values[mask] = ids(index)
        Image.fromarray(values).save(mask_path)
    return root


def people() -> list[Drawn]:
    return [Drawn(d.name, d.width, d.height, [("person", p) for _, p in d.instances]) for d in drawn_set()]


@pytest.mark.parametrize("masks", ["auto", "polygon", "rle"])
def test_dsb2018_round_trip_is_exact(tmp_path, masks):
    root = write_dsb2018(tmp_path / "stage1_train", nuclei())
    found = read_dsb2018(root, Options(masks=masks))
    assert not any(found.skipped.values())
    assert found.categories == [{"id": 1, "name": "nucleus"}]
    written = write_coco(found, tmp_path / "out.json")
    assert_equals_drawn(name_of(written), nuclei(), least_iou=1)


@pytest.mark.parametrize("masks", ["auto", "polygon", "rle"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pennfudan_round_trip_is_exact(tmp_path, masks, dtype):
    """Instance ids need not be consecutive, and go beyond 255 in 16 bits."""
    top = int(np.iinfo(dtype).max)
    root = write_pennfudan(tmp_path / "ped", people(), dtype, ids=lambda index: (7, top)[index])
    found = read_pennfudan(root, Options(masks=masks))
    assert not any(found.skipped.values())
    written = write_coco(found, tmp_path / "out.json")
    assert_equals_drawn(name_of(written), people(), least_iou=1, prefix="PNGImages/")


def test_overlapping_masks_of_dsb2018_stay_whole(tmp_path):
    big, small = (4, 4, 30, 30), (10, 10, 20, 20)
    polygons = [np.array([[a, b], [c, b], [c, d], [a, d]], float) for a, b, c, d in (big, small)]
    drawn = [Drawn("x/images/x.png", 40, 40, [("cell", polygon) for polygon in polygons])]
    root = write_dsb2018(tmp_path / "cells", drawn)
    found = read_dsb2018(root, Options(classes=("cell",)))
    assert [entry["area"] for entry in found.annotations] == [26 * 26, 100]
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "out.json")), drawn, least_iou=1)


@pytest.mark.parametrize("stored_masks", [False, True])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_either_orientation(tmp_path, orientation, stored_masks):
    """A mask's own size says which way it lies."""
    drawn = nuclei()[:1]
    root = write_dsb2018(tmp_path / "dsb", drawn, orientation, stored_masks)
    found = read_dsb2018(root)
    assert not found.notes
    assert_equals_drawn(name_of(write_coco(found, tmp_path / "out.json")), drawn, least_iou=1)


def test_what_dsb2018_leaves_out_is_named(tmp_path):
    """A folder without masks/ is a picture of a test set; one mask is empty."""
    root = write_dsb2018(tmp_path / "dsb", nuclei())
    (root / "ядро 2/masks").rmdir()
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(root / "ядро 0/masks/9.png")
    found = read_dsb2018(root)
    assert found.skipped == {
        "pictures without masks, not annotated": [str(root / nuclei()[2].name)],
        "masks that cover no pixel": [str(root / "ядро 0/masks/9.png")],
    }
    assert (len(found.images), len(found.annotations)) == (2, 3)


def test_what_pennfudan_leaves_out_is_named(tmp_path):
    root = write_pennfudan(tmp_path / "ped", people())
    (root / "PedMasks/empty_mask.png").rename(root / "PedMasks/other_mask.png")
    found = read_pennfudan(root)
    assert found.skipped == {
        "pictures without masks, not annotated": [str(root / "PNGImages/empty.png")],
        "masks without a picture": [str(root / "PedMasks/other_mask.png")],
    }


def test_folders_of_other_names(tmp_path):
    root = write_pennfudan(tmp_path / "own", people()[:1])
    (root / "PNGImages").rename(root / "images")
    (root / "PedMasks").rename(root / "masks")
    (root / "masks/first_mask.png").rename(root / "masks/first.png")
    found = read_pennfudan(root, image_folder="images", mask_folder="masks", mask_suffix="")
    assert len(found.annotations) == 2


def test_masks_of_another_size(tmp_path):
    root = write_dsb2018(tmp_path / "dsb", nuclei())
    Image.fromarray(np.ones((9, 8), np.uint8)).save(root / "ядро 0/masks/1.png")
    message = r"ядро 0/masks/1.png: made for a picture of 8 x 9 pixels, but .*ядро 0.png has 64 x 48"
    with pytest.raises(DatasetError, match=message):
        read_dsb2018(root)


def test_missing_folders_and_empty_ones(tmp_path):
    with pytest.raises(DatasetError, match="no: no such folder, expected folders with images/"):
        read_dsb2018(tmp_path / "no")
    with pytest.raises(DatasetError, match="no annotated picture found; expected folders with images/"):
        read_dsb2018(tmp_path)
    with pytest.raises(DatasetError, match=r"PNGImages: no such folder, expected PNGImages/NAME.png and Ped"):
        read_pennfudan(tmp_path)
    root = write_dsb2018(tmp_path / "dsb", nuclei()[:1])
    save_picture(root / "ядро 0/images/second.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DatasetError, match="images: expected one picture, got 2"):
        read_dsb2018(root)
    with pytest.raises(DatasetError, match="its masks have one class, got 2"):
        read_dsb2018(root, Options(classes=("a", "b")))


def test_disconnected_pixels_of_one_id_are_one_instance(tmp_path):
    root = tmp_path / "ped"
    values = np.zeros((20, 20), np.uint8)
    values[1:5, 1:5] = values[10:15, 10:15] = 4
    for folder, name in (("PNGImages", "a.png"), ("PedMasks", "a_mask.png")):
        (root / folder).mkdir(parents=True)
        Image.fromarray(values).save(Path(root, folder, name))
    written = write_coco(read_pennfudan(root), tmp_path / "out.json")
    ((_, mask),) = load(name_of(written))["PNGImages/a.png"][1]
    np.testing.assert_array_equal(mask, values == 4)


@given(arrays(np.uint8, (6, 7)))
def test_every_id_gives_its_pixels(ids):
    found = list(instance_masks(ids))
    assert [instance for instance, _ in found] == sorted(set(ids.ravel().tolist()) - {0})
    for instance, mask in found:
        np.testing.assert_array_equal(mask, ids == instance)
