"""EXIF orientations against Pillow, and masks of all depths."""

import struct

import cv2
import numpy as np
import pytest
from helpers.drawn_annotations import save_picture
from PIL import Image, ImageOps

from mrcnn_plugin.data.convert.pictures import (
    list_pictures,
    read_binary_mask,
    read_instance_ids,
    read_picture,
)
from mrcnn_plugin.errors import DatasetError

ORIENTATIONS = range(1, 9)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (5, 8, 3), np.uint8)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_turn_as_pillow_turns_pictures(tmp_path, pixels, orientation):
    path = tmp_path / "a.png"
    save_picture(path, pixels, orientation)
    with Image.open(path) as image:
        stored = np.asarray(image)
        np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), pixels)
    picture = read_picture(path)
    assert (picture.size, picture.orientation) == ((8, 5), orientation)
    assert picture.stored_size == stored.shape[1::-1]
    np.testing.assert_array_equal(picture.turn.mask(stored[..., 0]), pixels[..., 0])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_points_turn_as_masks_do(tmp_path, pixels, orientation):
    """The pixel (x, y), and the centre (x + 0.5, y + 0.5), go where a mask of that pixel goes."""
    save_picture(tmp_path / "a.png", pixels, orientation)
    picture = read_picture(tmp_path / "a.png")
    width, height = picture.stored_size
    for x, y in [(0, 0), (width - 1, 1), (2, height - 1)]:
        mask = np.zeros((height, width), bool)
        mask[y, x] = True
        ((row, column),) = np.argwhere(picture.turn.mask(mask))
        indices = picture.turn.points(np.array([[x, y]]), pixel_indices=True)
        assert indices.tolist() == [[column, row]]
        centre = picture.turn.points(np.array([[x + 0.5, y + 0.5]]))
        assert centre.tolist() == [[column + 0.5, row + 0.5]]


def test_the_annotated_size_tells_the_orientation(tmp_path, pixels):
    save_picture(tmp_path / "a.png", pixels, 6)
    picture = read_picture(tmp_path / "a.png")
    assert picture.turn_of((8, 5), "auto", "a.json") is None
    assert picture.turn_of((5, 8), "auto", "a.json") == picture.turn
    assert picture.turn_of(None, "auto", "a.json") is None
    assert picture.turn_of(None, "stored", "a.json") == picture.turn
    assert picture.is_ambiguous(None)
    assert not picture.is_ambiguous((5, 8))
    with pytest.raises(
        DatasetError, match=r"^a.json: made for a picture of 9 x 5 .*a.png has 8 x 5 \(stored"
    ):
        picture.turn_of((9, 5), "auto", "a.json")
    with pytest.raises(DatasetError, match=r"made for 5 x 8 pixels, but the upright .* has 8 x 5"):
        picture.turn_of((5, 8), "upright", "a.json")


def test_half_turns_cannot_be_told(tmp_path, pixels):
    save_picture(tmp_path / "a.png", pixels, 3)
    picture = read_picture(tmp_path / "a.png")
    assert picture.is_ambiguous((8, 5))
    assert picture.turn_of((8, 5), "auto", "") is None
    assert picture.turn_of((8, 5), "stored", "") == picture.turn


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_instance_ids_of_8_and_16_bits(tmp_path, dtype):
    ids = np.array([[0, 1, 2], [0, 255, np.iinfo(dtype).max]], dtype)
    Image.fromarray(ids).save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_instance_ids(tmp_path / "ids.png"), ids)


def test_palette_masks_hold_indices(tmp_path):
    ids = np.array([[0, 1, 2], [3, 0, 1]], np.uint8)
    image = Image.fromarray(ids).convert("P")
    image.putdata(ids.ravel().tolist())
    # The background is white and the first instance black, so colours would say the opposite.
    image.putpalette([255, 255, 255, 0, 0, 0, 0, 255, 0, 9, 9, 9])
    image.save(tmp_path / "ids.png")
    np.testing.assert_array_equal(read_instance_ids(tmp_path / "ids.png"), ids)
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "ids.png"), ids != 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_binary_masks_of_every_mode(tmp_path, mode):
    """Alpha, opaque everywhere, does not count."""
    mask = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)
    Image.fromarray(mask).convert(mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.png"), mask != 0)


def test_faint_colours_of_16_bits_count(tmp_path):
    mask = np.zeros((2, 3, 3), np.uint16)
    mask[1, 2] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    np.testing.assert_array_equal(read_binary_mask(tmp_path / "mask.png"), mask[..., 0] != 0)


def test_colour_is_no_instance_id(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "ids.png")
    with pytest.raises(DatasetError, match=r"ids.png: expected one channel of instance ids, got 3 channels"):
        read_instance_ids(tmp_path / "ids.png")


@pytest.mark.parametrize("read", [read_picture, read_instance_ids, read_binary_mask])
@pytest.mark.parametrize("content", [None, b"", b"not a picture"])
def test_broken_files_are_one_line_that_names_them(tmp_path, read, content):
    path = tmp_path / "ключ.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"ключ.png: (no such|cannot be read)") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_cut_masks_are_named(tmp_path):
    path = tmp_path / "mask.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DatasetError, match=r"mask.png: cannot be read as a mask"):
        read_binary_mask(path)


def test_pictures_of_16_bits_are_known(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").wide_pixels


def test_listing_goes_into_subfolders_but_not_into_hidden_ones(tmp_path):
    for name in ("b.PNG", "in/a.jpg", ".hidden/c.png", ".d.png", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert list_pictures(tmp_path) == [tmp_path / "b.PNG", tmp_path / "in/a.jpg"]


def test_links_in_a_circle_are_followed_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.png").touch()
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert list_pictures(tmp_path) == [tmp_path / "a/b.png"]


def test_decompression_bombs_are_named(tmp_path):
    """Seventy bytes that say they are an image of 3.6 gigapixels."""
    path = tmp_path / "a.bmp"
    sizes = (70, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 16, 0, 0, 0, 0)
    path.write_bytes(b"BM" + struct.pack("<IIIIiiHHIIiiII", *sizes))
    for read in (read_picture, read_binary_mask):
        with pytest.raises(DatasetError, match=r"a\.bmp: cannot be read as a (picture|mask) \(Image size"):
            read(path)
