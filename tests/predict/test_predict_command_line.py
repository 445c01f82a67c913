"""predict.py: overlays and COCO JSON of images, folders and globs, broken ones among them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog
from helpers.tiny_runs import start
from PIL import Image
from pycocotools.coco import COCO

from mrcnn_plugin.errors import ConfigError, DatasetError
from mrcnn_plugin.predict import argument_parser, main
from mrcnn_plugin.predict.command_line import find_images, image_ids


def predict(*arguments) -> int:
    return main(argument_parser().parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def test_images(shapes) -> Path:
    return Path(MetadataCatalog.get(shapes["val"]).image_root)


def test_results_are_those_of_the_evaluation(finished_run, test_images, shapes, tmp_path):
    assert predict(test_images, "--run", finished_run, "--score-threshold", "0", "--output", tmp_path) == 0
    predicted = json.loads((tmp_path / "predictions.json").read_text())
    evaluated = json.loads((finished_run / "inference" / "coco_instances_results.json").read_text())
    annotations = COCO(MetadataCatalog.get(shapes["val"]).json_file)
    ids = {image["file_name"]: image["id"] for image in annotations.imgs.values()}
    for result in predicted:
        # The number in the file name, which in this set is not the image's id.
        assert result["image_id"] == int(Path(result["file_name"]).stem)
        result["image_id"] = ids[Path(result["file_name"]).name]
    assert {result["category_id"] for result in predicted} <= set(annotations.getCatIds())
    assert len(predicted) == len(evaluated) > 0
    key = lambda result: (result["image_id"], -result["score"])  # noqa: E731
    for mine, theirs in zip(sorted(predicted, key=key), sorted(evaluated, key=key)):
        assert mine["category_id"] == theirs["category_id"]
        assert mine["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert mine["segmentation"] == theirs["segmentation"]
    annotations.loadRes(predicted)
    for file in test_images.iterdir():
        assert min(Image.open(tmp_path / f"{file.stem}.png").size) == 400


def test_run_folder_alone_is_enough(finished_run, test_images, tmp_path):
    """On another machine the data set is missing: names and ids come from the run folder."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "metadata.json", "model_final.pth"):
        text = (finished_run / name).read_bytes()
        (run / name).write_bytes(text.replace(b"instances_", b"absent_") if name == "config.yaml" else text)
    image = sorted(test_images.iterdir())[0]
    for folder, output in ((run, "there"), (finished_run, "here")):
        line = (image, "--run", folder, "--score-threshold", "0", "--output", tmp_path / output)
        assert predict(*line) == 0
    there, here = (
        json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("there", "here")
    )
    assert there == here
    assert {result["category_id"] for result in here} <= {1, 2, 3, 4}


def test_broken_image_is_named_and_skipped(finished_run, test_images, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    good = sorted(test_images.iterdir())[0]
    shutil.copy(good, folder / "good.png")
    (folder / "broken.png").write_bytes(good.read_bytes()[:200])
    (folder / "text.jpg").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")
    output = tmp_path / "out"
    config = ("--config-file", finished_run / "config.yaml", "--weights", finished_run / "model_final.pth")
    assert predict(folder, tmp_path / "absent.png", *config, "--output", output) == 1
    assert sorted(path.name for path in output.iterdir()) == ["good.png", "predictions.json"]
    errors = capsys.readouterr().err
    for name in ("broken.png", "text.jpg", "absent.png"):
        assert str(name) in errors
    assert "notes.txt" not in errors


def test_program(finished_run, test_images, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    good = sorted(test_images.iterdir())[0]
    line = ("predict.py", str(good), str(tmp_path / "broken.png"), "--run", str(finished_run))
    process = start(*line, "--output", str(tmp_path / "out"))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "broken.png" in errors
    assert "Traceback" not in errors
    assert f"{tmp_path / 'out' / good.stem}.png" in output


def test_threshold(finished_run, test_images, tmp_path):
    for threshold in (0.0, 1.0):
        predict(test_images, "--run", finished_run, "--score-threshold", threshold, "--output", tmp_path)
        results = json.loads((tmp_path / "predictions.json").read_text())
        assert bool(results) == (threshold == 0.0)


def test_find_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.txt"):
        (tmp_path / name).touch()
    files, missing = find_images([str(tmp_path), str(tmp_path / "*.jpg"), str(tmp_path / "*.gif")])
    assert [Path(file).name for file in files] == ["a.jpg", "b.PNG"]
    assert missing == [str(tmp_path / "*.gif")]


def test_image_ids():
    assert image_ids(["x/000042.jpg", "7.png"]) == [42, 7]
    assert image_ids(["x/1.jpg", "y/1.jpg"]) == [1, 2]
    assert image_ids(["a.jpg", "7.jpg"]) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png"], "give either --run FOLDER, or --config-file FILE"),
        (["x.png", "--run", "/nowhere"], "--run /nowhere: not a run folder"),
        (["/nowhere.png", "--run", "RUN"], "no images found: /nowhere.png"),
        (["IMAGE", "--run", "RUN", "--weights", "/w.pth"], "--weights: no weights at '/w.pth'"),
        (["IMAGE", "--run", "RUN", "--score-threshold", "50"], "--score-threshold must be in [0, 1], got 50"),
        (["IMAGE", "--run", "RUN", "--device", "gpu"], "--device gpu: "),
        (["IMAGE", "--run", "RUN", "--opts", "model.roi_heds.x=1"], "unknown key 'model.roi_heds.x'"),
    ],
)
def test_bad_command_line(finished_run, test_images, tmp_path, arguments, message):
    known = {"RUN": finished_run, "IMAGE": sorted(test_images.iterdir())[0]}
    with pytest.raises(ConfigError) as error:
        predict(*(known.get(argument, argument) for argument in arguments), "--output", tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def sent_run(finished_run, tmp_path) -> Path:
    """A run folder as somebody may send it: a copy to change."""
    folder = tmp_path / "sent"
    folder.mkdir()
    for name in ("config.yaml", "metadata.json", "model_final.pth"):
        shutil.copy(finished_run / name, folder)
    return folder


def test_a_run_folder_that_was_sent_runs_none_of_its_code_unasked(sent_run, test_images, tmp_path):
    image, mark = sorted(test_images.iterdir())[0], tmp_path / "mark"
    line = (image, "--run", sent_run, "--output", tmp_path / "out")
    config = (sent_run / "config.yaml").read_text()
    # Among what prediction builds, and beside it.
    for section in ("model", "dataloader"):
        code = f"{section}:\n  extra: {{_target_: pathlib.Path.touch, self: {{_target_: pathlib.Path, a: {mark}}}}}\n"
        (sent_run / "config.yaml").write_text(config.replace(f"{section}:\n", code))
        with pytest.raises(ConfigError, match=r"extra\._target_ = pathlib\.Path.touch; .*add --trust-run"):
            predict(*line)
    (sent_run / "config.yaml").write_text(config)
    (sent_run / "config.yaml.pkl").write_bytes(b"cpathlib\nPath\n(V" + str(mark).encode() + b"\ntR.")
    with pytest.raises(ConfigError, match=r"config\.yaml\.pkl is a pickle, .*--trust-run"):
        predict(*line)
    (sent_run / "config.yaml.pkl").unlink()
    (sent_run / "metadata.json").write_text('{"thing_classes": 3}')
    with pytest.raises(
        DatasetError, match=r"metadata\.json is not the metadata of a run: thing_classes must be"
    ):
        predict(*line)
    assert not mark.exists()


def test_components_of_ones_own_run_if_the_folder_is_trusted(sent_run, test_images, tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(
        "from detectron2.modeling.meta_arch import GeneralizedRCNN\nclass OwnRCNN(GeneralizedRCNN):\n    pass\n"
    )
    config = (sent_run / "config.yaml").read_text()
    assert config.count("GeneralizedRCNN") == 1
    start = config.index("detectron2.modeling.", config.index("GeneralizedRCNN") - 60)
    end = config.index("GeneralizedRCNN") + len("GeneralizedRCNN")
    (sent_run / "config.yaml").write_text(config[:start] + "own_parts.OwnRCNN" + config[end:])
    line = (sorted(test_images.iterdir())[0], "--run", sent_run, "--output", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"model._target_ = own_parts.OwnRCNN; .*--trust-run"):
        predict(*line)
    with pytest.raises(
        ConfigError, match=r"model._target_ 'own_parts.OwnRCNN' cannot be imported .*PYTHONPATH"
    ):
        predict(*line, "--trust-run")
    monkeypatch.syspath_prepend(tmp_path)
    assert predict(*line, "--trust-run") == 0


def test_names_that_are_long_or_not_text(finished_run, test_images, tmp_path, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    image = sorted(test_images.iterdir())[0]
    names = ["x" * 251 + ".jpg", "x" * 250 + "y.jpg", "\U0001f600.jpg", "a\x1b[31m.jpg"]
    for name in names:
        shutil.copy(image, folder / name)
    shutil.copy(image, os.fsencode(folder) + b"/\xff\xfe.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    assert predict(folder, "--run", finished_run, "--output", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 5
    assert "\x1b[31m" not in capfd.readouterr().out
    with pytest.raises(ConfigError, match="no images found"):
        predict(folder / "pipe.jpg", "--run", finished_run, "--output", tmp_path / "out")
