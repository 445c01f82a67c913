"""The pictures of what a model is fed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from helpers.tiny_runs import tiny_arguments
from PIL import Image

from mrcnn_plugin.data import show
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.reporting.pictures import class_color, draw_targets


@pytest.fixture
def shown(shapes, tmp_path):
    def run(folder, *more):
        arguments = [*tiny_arguments(shapes, tmp_path / "unused"), "--output", str(folder), *more]
        show.main(show.argument_parser().parse_intermixed_args(arguments))
        return sorted(path.name for path in folder.iterdir())

    return run


def test_pictures_and_overview(shown, tmp_path, capsys):
    names = shown(tmp_path / "shown", "--images", "5")
    assert len(names) == 6
    assert names[-1] == "overview.png"
    picture = np.asarray(Image.open(tmp_path / "shown" / names[0]))
    # Enlarged so that labels can be read.
    assert picture.shape == (400, 400, 3)
    assert Image.open(tmp_path / "shown" / "overview.png").size == (3 * 326 - 6, 2 * 326 - 6)
    lines = capsys.readouterr().out.splitlines()
    assert "64 x 64, " in lines[0]
    assert any(name in lines[0] for name in ("circle", "square", "triangle", "star"))
    assert not (tmp_path / "unused").exists()


def test_the_seed_decides(shown, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder, seed in zip(folders, "001"):
        shown(folder, "--images", "3", "--seed", seed)
    first, second, third = ([p.read_bytes() for p in sorted(f.glob("0*.png"))] for f in folders)
    assert first == second
    assert first != third


def test_augmentations_are_seen(shown, tmp_path):
    shown(tmp_path / "plain", "--images", "2", "dataloader.train.mapper.augmentations.0.prob=0.0")
    shown(tmp_path / "flipped", "--images", "2", "dataloader.train.mapper.augmentations.0.prob=1.0")
    for name in (p.name for p in (tmp_path / "plain").glob("0*.png")):
        plain, flipped = (
            np.asarray(Image.open(tmp_path / folder / name), int) for folder in ("plain", "flipped")
        )
        # But for the labels, which are written from left to right.
        assert np.abs(plain[:, ::-1] - flipped).mean() < 0.6 * np.abs(plain - flipped).mean()


@pytest.mark.parametrize("form", ["polygon", "bitmask"])
def test_masks_boxes_and_classes_are_drawn_where_they_are(form):
    from detectron2.data import Metadata

    metadata = Metadata(name="two", thing_classes=["first", "second"])
    masks = PolygonMasks([[[20, 20, 80, 20, 80, 80, 20, 80]]])
    instances = Instances((100, 100), gt_boxes=Boxes([[20, 20, 80, 80]]), gt_classes=torch.tensor([1]))
    instances.gt_masks = masks if form == "polygon" else BitMasks.from_polygon_masks(masks, 100, 100)
    picture = draw_targets(np.full((100, 100, 3), 255, np.uint8), instances, metadata)
    expected = 255 * (0.4 * np.array(class_color(1, metadata)) + 0.6)
    np.testing.assert_allclose(picture[250, 200], expected, atol=3)
    assert (picture[395, 200] == 255).all()


def test_bad_number_of_images(shown, tmp_path):
    with pytest.raises(ConfigError, match="--images must be at least 1, got 0"):
        shown(tmp_path / "shown", "--images", "0")


def test_an_error_of_the_program_is_one_line(tmp_path):
    command = [sys.executable, "-m", "mrcnn_plugin.data.show", "--config-file", "none.py", "--output", "x"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("error: config file 'none.py' does not exist")
    assert "Traceback" not in process.stderr
