"""Image files that cannot be read are named with the reason; training goes on without them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetMapper
from detectron2.data.common import DatasetFromList, MapDataset
from PIL import Image

from mrcnn_plugin.data.images import skip_unreadable, unreadable
from mrcnn_plugin.errors import DatasetError


def picture(path, **options) -> str:
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path, **options)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """Name -> path of files that are no 8-bit images, or broken ones."""
    whole = picture(tmp_path / "whole.png")
    data = Path(whole).read_bytes()
    made = {
        name: tmp_path / f"{name}.png" for name in ("empty", "cut", "text", "deep", "float", "bomb", "folder")
    }
    made["empty"].touch()
    made["cut"].write_bytes(data[: len(data) // 2])
    made["text"].write_text("not an image")
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(made["deep"])
    Image.fromarray(np.ones((4, 4), np.float32)).save(made["float"], format="TIFF")
    # A PNG whose header claims 100000 x 100000 pixels.
    header = bytearray(data)
    header[16:24] = (100_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    made["bomb"].write_bytes(header)
    made["folder"].mkdir()
    return {"whole": whole, "missing": str(tmp_path / "x.png"), **{k: str(v) for k, v in made.items()}}


def test_reasons(files):
    reasons = {name: unreadable(path) for name, path in files.items()}
    assert reasons.pop("whole") is None
    assert reasons["empty"] == "the file is empty"
    assert "more than 8 bits; convert it to 8 bits" in reasons["deep"]
    assert "floating-point" in reasons["float"]
    assert "decompression bomb" in reasons["bomb"]
    assert reasons["missing"] == reasons["folder"] == "no such file"
    assert all(text and "\n" not in text for text in reasons.values())


@pytest.mark.parametrize(
    ("mode", "options"),
    [("CMYK", {"format": "JPEG"}), ("RGBA", {}), ("LA", {}), ("P", {}), ("1", {}), ("L", {})],
)
def test_modes_that_are_read(tmp_path, mode, options):
    image = Image.fromarray(np.full((6, 8, 3), 200, np.uint8)).convert(mode)
    # The ending does not say what a file holds.
    image.save(tmp_path / "a.png", **{"format": "PNG", **options})
    assert unreadable(str(tmp_path / "a.png")) is None


def mapped(paths: list[str], size: int = 10) -> MapDataset:
    dicts = [{"file_name": path, "height": size, "width": size, "id": i} for i, path in enumerate(paths)]
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="BGR")
    dataset = MapDataset(DatasetFromList(dicts), mapper)
    skip_unreadable(dataset)
    return dataset


def test_training_skips_a_broken_image_by_name_and_takes_another(files, caplog):
    dataset = mapped([files["whole"], files["cut"], files["missing"]])
    for _ in range(2):
        assert [dataset[i]["id"] for i in range(3)] == [0, 0, 0]
    assert caplog.text.count(f"skipped {files['cut']}: ") == 1
    assert caplog.text.count(f"skipped {files['missing']}: no such file") == 1


def test_a_file_that_is_replaced_while_it_is_read_from(files, tmp_path, caplog):
    other = picture(tmp_path / "other.png")
    dataset = mapped([files["whole"], other])
    assert dataset[1]["id"] == 1
    Image.new("RGB", (7, 7)).save(other)
    assert dataset[1]["id"] == 0
    assert f"skipped {other}: Mismatched image shape" in caplog.text
    picture(other)
    assert dataset[1]["id"] == 1


def test_data_without_one_image_that_can_be_read_ends(files, tmp_path):
    dataset = mapped([files[name] for name in ("cut", "empty", "missing")])
    with pytest.raises(DatasetError, match="nor could 2 images before it be read"):
        dataset[0]
    # One was known to be broken before the others were.
    paths = [files["cut"], *(picture(tmp_path / f"{i}.png") for i in range(3))]
    dataset = mapped(paths)
    assert dataset[0]["id"] > 0
    for path in paths:
        Path(path).write_bytes(b"")
    with pytest.raises(DatasetError, match="the file is empty; nor could 2"):
        dataset[1]


def test_annotations_that_the_mapper_cannot_use_are_one_line(files):
    dataset = mapped([files["whole"]])
    record = {"file_name": files["whole"], "height": 10, "width": 10}
    record["annotations"] = [{"bbox": [1, 2], "bbox_mode": 1, "category_id": 0}]
    dataset._dataset = DatasetFromList([record])
    with pytest.raises(DatasetError, match=r"whole\.png: its annotations cannot be used: ") as error:
        dataset[0]
    assert "\n" not in str(error.value)


def test_an_error_of_a_mapper_of_ones_own_is_raised_as_it_is(files):
    def broken(dataset_dict):
        raise TypeError("a bug")

    dataset = MapDataset(DatasetFromList([{"file_name": files["whole"]}]), broken)
    skip_unreadable(dataset)
    with pytest.raises(TypeError, match="a bug"):
        dataset[0]
