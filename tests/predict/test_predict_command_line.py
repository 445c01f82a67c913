"""predict.py: overlays and COCO JSON of images, folders and globs, broken ones among them."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from helpers.tiny_runs import start
from PIL import Image
from pycocotools.coco import COCO

from mrcnn_plugin.errors import ConfigError, DatasetError
from mrcnn_plugin.optimization import compilation
from mrcnn_plugin.optimization.compilation import CompiledSizes
from mrcnn_plugin.predict import argument_parser, main, run_files
from mrcnn_plugin.predict import pictures as pictures_module
from mrcnn_plugin.predict.inputs import Input, find_inputs, image_ids, output_paths
from mrcnn_plugin.predict.predictor import Predictor
from mrcnn_plugin.predict.results_log import ResultsLog


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
    assert sorted(path.name for path in output.iterdir()) == [
        "good.png",
        "predictions.json",
        "predictions.jsonl",
    ]
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


def test_the_best_and_the_averaged_weights_of_a_run(finished_run, test_images, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    for name in ("best", "ema"):
        with pytest.raises(
            ConfigError, match=f"--checkpoint {name}: no .*model_{name}.pth; training with train"
        ):
            run_files(str(run), name)
    weights = torch.load(run / "model_final.pth", weights_only=True)["model"]
    # All scores become those of equal logits.
    blank = {key: torch.zeros_like(w) if "cls_score" in key else w for key, w in weights.items()}
    torch.save({"model": blank, "iteration": 3}, run / "model_best.pth")
    assert run_files(str(run), "best") == (str(run / "config.yaml"), str(run / "model_best.pth"))
    for checkpoint, scores in (("final", None), ("best", {0.2})):
        output = tmp_path / checkpoint
        line = ["--run", run, "--checkpoint", checkpoint, "--score-threshold", "0", "--output", output]
        assert predict(*line, sorted(test_images.iterdir())[0]) == 0
        found = {round(r["score"], 4) for r in json.loads((output / "predictions.json").read_text())}
        assert (found == scores) == (checkpoint == "best")


def test_find_inputs(tmp_path):
    for name in ("b.PNG", "a.jpg", "c.txt", "clip.mp4", "sub/d.png", "sub/deep/b.PNG", "out/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files, missing = find_inputs([str(tmp_path), str(tmp_path / "*.jpg"), str(tmp_path / "*.gif")])
    assert [Path(file.path).name for file in files] == ["a.jpg", "b.PNG"]
    assert missing == [str(tmp_path / "*.gif")]
    files, _ = find_inputs([str(tmp_path)], recursive=True, skip=str(tmp_path / "out"))
    assert [file.name for file in files] == ["a", "b", "sub/d", "sub/deep/b"]
    files, _ = find_inputs([str(tmp_path / "clip.mp4"), str(tmp_path)], recursive=True)
    assert [file.name for file in files] == ["clip", "a", "b", "out/a", "sub/d", "sub/deep/b"]
    # The output folder itself may be searched.
    files, _ = find_inputs([str(tmp_path)], skip=str(tmp_path))
    assert len(files) == 2


def test_output_paths():
    files = [Input("x/a.jpg", "a"), Input("y/a.jpg", "a"), Input("y/sub/a.jpg", "sub/a")]
    assert output_paths(files, "out", ".png") == ["out/a.png", "out/a_2.png", "out/sub/a.png"]
    assert output_paths(files[:1], "out", "", taken=["a"]) == ["out/a_2"]
    with pytest.raises(ConfigError, match=r"--output x: x/a\.jpg would be overwritten"):
        output_paths(files, "x", ".jpg")


def test_image_ids():
    assert image_ids(["x/000042.jpg", "7.png"]) == [42, 7]
    assert image_ids(["x/1.jpg", "y/1.jpg"]) == [1, 2]
    assert image_ids(["a.jpg", "7.jpg"]) == [1, 2]


@pytest.fixture
def line(finished_run, test_images, tmp_path):
    """A command line of all test images."""
    return lambda name, *more: (
        test_images,
        *("--run", finished_run, "--score-threshold", "0", "--output", tmp_path / name),
        *more,
    )


def result_of(folder: Path) -> str:
    return (folder / "predictions.json").read_text()


def test_no_overlays(line, tmp_path):
    assert predict(*line("out", "--no-overlays")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.json", "predictions.jsonl"}
    assert json.loads(result_of(tmp_path / "out"))


def test_batches_give_what_single_images_give(line, tmp_path):
    for batch in (1, 4):
        assert predict(*line(str(batch), "--no-overlays", "--batch", batch, "--workers", 2)) == 0
    one, four = (json.loads(result_of(tmp_path / name)) for name in "14")
    assert len(one) == len(four) > 0
    for mine, theirs in zip(one, four):
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert mine["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
        assert (mine["file_name"], mine["segmentation"]) == (theirs["file_name"], theirs["segmentation"])


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


@pytest.mark.parametrize("overlays", [True, False])
def test_resumed_after_being_killed(line, test_images, tmp_path, monkeypatch, overlays):
    """Killed in the network or in drawing: every picture but those of that batch is predicted once."""
    more = ["--batch", 2] if overlays else ["--batch", 2, "--no-overlays"]
    assert predict(*line("whole", *more)) == 0
    detect, draw, batches = Predictor.detect, pictures_module._draw, []

    def dying(self, inputs):
        batches.append(len(inputs))
        if len(batches) in (2, 4):
            raise Killed
        return detect(self, inputs)

    def killed_drawing(path, *rest):
        if len(batches) == 1:
            raise Killed
        draw(path, *rest)

    monkeypatch.setattr(Predictor, "detect", dying)
    monkeypatch.setattr(pictures_module, "_draw", killed_drawing)
    for _ in range(2):
        with pytest.raises(Killed):
            predict(*line("killed", *more, "--resume"))
        assert not (tmp_path / "killed" / "predictions.json").exists()
    assert predict(*line("killed", *more, "--resume")) == 0
    # Six pictures. The first batch is lost with its overlays only; those that died in the network come again.
    assert batches == ([2, 2, 2, 2, 2, 2] if overlays else [2, 2, 2, 2, 2])
    assert result_of(tmp_path / "killed") == result_of(tmp_path / "whole")
    names = lambda name: sorted(path.name for path in (tmp_path / name).iterdir())  # noqa: E731
    assert names("killed") == names("whole")
    batches.clear()
    assert predict(*line("killed", *more, "--resume")) == 0
    assert batches == []
    assert result_of(tmp_path / "killed") == result_of(tmp_path / "whole")


def test_resume_with_other_settings_is_refused(line):
    assert predict(*line("out", "--no-overlays")) == 0
    with pytest.raises(ConfigError, match="was predicted with --tile = None, now it is 64"):
        predict(*line("out", "--no-overlays", "--resume", "--tile", 64))


def test_without_resume_it_starts_again(line, monkeypatch):
    assert predict(*line("out", "--no-overlays")) == 0
    cleared = []
    monkeypatch.setattr(ResultsLog, "clear", lambda self: cleared.append(self))
    assert predict(*line("out", "--no-overlays")) == 0
    assert cleared


def test_two_processes_give_what_one_gives(line, tmp_path):
    assert predict(*line("one", "--no-overlays")) == 0
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()))
    # Without the dashes torchrun takes --run for an abbreviation of its own options.
    process = start(*torchrun, "--", "predict.py", *map(str, line("two", "--no-overlays")))
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert result_of(tmp_path / "two") == result_of(tmp_path / "one")
    lines = [(tmp_path / "two" / f"predictions{part}.jsonl").read_text().splitlines() for part in ("", ".1")]
    assert [len(part) for part in lines] == [4, 4], "a header and half of the six pictures each"
    assert output.count("predictions.json") == 1


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_folder_that_cannot_be_written_to_is_one_line(line, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output .*file: .*File exists"):
        predict(*line("file", "--no-overlays"))

    def full(self, entries):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ResultsLog, "append", full)
    with pytest.raises(ConfigError, match=r"--output .*out: .*No space left on device; --resume goes on"):
        predict(*line("out", "--no-overlays"))


def test_tiles_of_the_program(line, test_images, tmp_path):
    assert predict(*line("tiles", "--tile", 48, "--overlap", 24)) == 0
    for result in json.loads(result_of(tmp_path / "tiles")):
        assert result["segmentation"]["size"] == [64, 64]
    for file in test_images.iterdir():
        assert min(Image.open(tmp_path / "tiles" / f"{file.stem}.png").size) == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.png"], "give either --run FOLDER, or --config-file FILE"),
        (["x.png", "--run", "/nowhere"], "--run /nowhere: not a run folder"),
        (["/nowhere.png", "--run", "RUN"], "no images found: /nowhere.png"),
        (["--run", "RUN"], "no images found: none were given"),
        (["IMAGE", "--run", "RUN", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["IMAGE", "--run", "RUN", "--overlap", "8"], "--overlap needs --tile SIZE"),
        (["IMAGE", "--run", "RUN", "--tile", "16"], "--tile must be at least 32 pixels, got 16"),
        (["IMAGE", "--run", "RUN", "--weights", "/w.pth"], "--weights: no weights at '/w.pth'"),
        (["IMAGE", "--run", "RUN", "--score-threshold", "50"], "--score-threshold must be in [0, 1], got 50"),
        (["IMAGE", "--config-file", "c.py", "--checkpoint", "best"], "names weights of --run FOLDER"),
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
        path = f"{{_target_: pathlib.Path, a: {mark}}}"
        code = f"{section}:\n  extra: {{_target_: pathlib.Path.touch, self: {path}}}\n"
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
        "from detectron2.modeling import GeneralizedRCNN\nclass OwnRCNN(GeneralizedRCNN):\n    pass\n"
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


def test_bfloat16_and_its_refusals(finished_run, test_images, tmp_path):
    line = (test_images, "--run", finished_run, "--score-threshold", "0", "--no-overlays")
    assert predict(*line, "--output", tmp_path / "low", "--precision", "bfloat16") == 0
    assert predict(*line, "--output", tmp_path / "full") == 0
    low, full = (json.loads((tmp_path / n / "predictions.json").read_text()) for n in ("low", "full"))
    scores = [sorted(result["score"] for result in results) for results in (low, full)]
    assert scores[0] != scores[1], "bfloat16 has other digits"
    assert max(scores[0]) == pytest.approx(max(scores[1]), abs=0.02)
    with pytest.raises(ConfigError, match="--precision"):
        predict(*line, "--output", tmp_path / "low", "--resume")
    for option in (("--precision", "auto"), ("--compile",)):
        with pytest.raises(ConfigError, match="is of the optimized copy, which --no-optimize leaves out"):
            predict(*line, "--output", tmp_path, "--no-optimize", *option)


def test_compile_reaches_the_backbone(finished_run, test_images, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(compilation.logger, "warning", warnings.append)
    error = RuntimeError("no compiler here")
    monkeypatch.setattr(CompiledSizes, "_compile", lambda self, x, package: (_ for _ in ()).throw(error))
    monkeypatch.setenv("MRCNN_PLUGIN_CACHE", str(tmp_path / "cache"))
    line = (test_images, "--run", finished_run, "--score-threshold", "0", "--no-overlays")
    assert predict(*line, "--output", tmp_path / "plain") == 0
    assert predict(*line, "--output", tmp_path / "compiled", "--compile") == 0
    assert warnings
    assert all("no compiler here" in warning for warning in warnings)
    plain, compiled = ((tmp_path / n / "predictions.json").read_text() for n in ("plain", "compiled"))
    assert plain == compiled
