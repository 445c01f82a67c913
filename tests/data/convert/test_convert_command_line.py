"""python -m mrcnn_plugin.data.convert, from the drawn folders to the names that it prints."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
from helpers.drawn_annotations import assert_equals_drawn, drawn_set, save_picture
from PIL import Image

from mrcnn_plugin.data.convert.command_line import EXAMPLES, PROG, main, parser


@pytest.fixture
def labelme(tmp_path):
    root = tmp_path / "labelme"
    for picture in drawn_set():
        save_picture(root / picture.name, picture.pixels())
        shapes = [{"label": label, "points": polygon.tolist()} for label, polygon in picture.instances]
        path = (root / picture.name).with_suffix(".json")
        name = path.with_suffix(".png").name
        path.write_text(json.dumps({"shapes": shapes, "imagePath": name}))
    return root


def printed_names(capsys):
    lines = capsys.readouterr().out.splitlines()
    return [line.strip() for line in lines if line.strip().startswith("coco:/")]


def test_the_printed_name_loads(labelme, tmp_path, capsys):
    assert main(["labelme", str(labelme), "-o", str(tmp_path / "out.json")]) == 0
    (name,) = printed_names(capsys)
    assert name == f"coco:{tmp_path / 'out.json'}:{labelme}"
    assert_equals_drawn(name, drawn_set())


def test_split_copied_and_converted_again(labelme, tmp_path, capsys):
    copies = tmp_path / "copies"
    common = ["-o", str(tmp_path / "out.json"), "--seed", "3"]
    assert main(["labelme", str(labelme), *common, "--val", "0.34", "--copy-images", str(copies)]) == 0
    names = printed_names(capsys)
    assert names == [f"coco:{tmp_path / f'out_{side}.json'}:{copies}" for side in ("train", "val")]
    assert main(["coco", *names, "-o", str(tmp_path / "joined.json"), "--masks", "rle"]) == 0
    output = capsys.readouterr().out
    assert "3 masks are RLE: train with dataloader.train.mapper.instance_mask_format=bitmask" in output
    assert_equals_drawn(f"coco:{tmp_path / 'joined.json'}:{copies}", drawn_set())


def test_masks_of_folders(tmp_path, capsys):
    root = tmp_path / "cells"
    ids = np.zeros((20, 20), np.uint8)
    ids[2:9, 2:9] = 1
    ids[4:6, 4:6] = 0
    for folder, name in (("png", "a.png"), ("ids", "a.png")):
        (root / folder).mkdir(parents=True)
        Image.fromarray(ids).save(root / folder / name)
    folders = ["--image-folder", "png", "--mask-folder", "ids", "--mask-suffix", ""]
    command = ["pennfudan", str(root), "-o", str(tmp_path / "out.json"), "--class", "cell"]
    assert main([*command, *folders, "--masks", "polygon"]) == 0
    assert "RLE" not in capsys.readouterr().out
    dataset = json.loads((tmp_path / "out.json").read_text())
    assert dataset["categories"] == [{"id": 1, "name": "cell"}]
    assert [entry["area"] for entry in dataset["annotations"]] == [45]


def test_everything_left_out_is_counted_and_named(labelme, tmp_path, capsys):
    """A few names on the terminal, all of them in a file."""
    for index in range(7):
        save_picture(labelme / f"later {index}.png", np.zeros((4, 4, 3), np.uint8))
    assert main(["labelme", str(labelme), "-o", str(tmp_path / "out.json")]) == 0
    output = capsys.readouterr().out
    assert f"left out: 7 pictures without a JSON file, not annotated: {labelme / 'later 0.png'}, " in output
    assert "later 6.png" not in output
    listed = (tmp_path / "out_left_out.txt").read_text().splitlines()
    assert len(listed) == 7
    assert listed[6] == f"left out: pictures without a JSON file, not annotated: {labelme / 'later 6.png'}"


def test_errors_are_one_line_and_status_2(labelme, tmp_path, capsys):
    out = tmp_path / "out.json"
    (labelme / "first.json").write_text("{")
    assert main(["labelme", str(labelme), "-o", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {labelme / 'first.json'}:1:2: malformed JSON")
    assert error.count("\n") == 1
    assert not out.exists()
    out.touch()
    assert main(["yolo", "nowhere", "-o", str(out)]) == 2
    assert capsys.readouterr().err == f"error: {out}: exists; give another name, or --overwrite\n"
    assert main(["yolo", "nowhere", "-o", "/proc/none/out.json"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("value", ["0", "1", "-3", "half"])
def test_impossible_fractions(value, capsys):
    with pytest.raises(SystemExit) as stop:
        parser().parse_args(["yolo", "a", "-o", "b.json", "--val", value])
    assert stop.value.code == 2
    assert "--val" in capsys.readouterr().err


def test_help_shows_examples_of_every_format():
    command = [sys.executable, "-m", "mrcnn_plugin.data.convert", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("coco", "yolo", "labelme", "dsb2018", "pennfudan"):
        assert f"python -m mrcnn_plugin.data.convert {name} " in output


def test_examples_of_the_help_are_accepted():
    examples = [line.strip() for line in EXAMPLES.splitlines() if line.strip().startswith(PROG)]
    assert len(examples) == 5
    for line in examples:
        parser().parse_args(shlex.split(line.removeprefix(PROG)))
