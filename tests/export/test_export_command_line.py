"""export.py: files of each format find what the run folder's model finds, and say what they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.predictions import assert_same_results, predict
from PIL import Image

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.export import load, parity
from mrcnn_plugin.export.command_line import argument_parser as export_parser
from mrcnn_plugin.export.command_line import main as export_main
from mrcnn_plugin.predict import argument_parser, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_predictions_of_a_file_are_those_of_the_run_folder(run, exported, pictures, tmp_path, format):
    expected = predict(tmp_path / "run", *pictures, "--run", run)
    found = predict(tmp_path / "file", *pictures, "--model", exported[format])
    assert_same_results(found, expected)
    assert {result["category_id"] for result in found} <= {7, 8, 9, 10}


def test_openvino_predicts_as_the_run_folder(run, export, pictures, tmp_path):
    pytest.importorskip("openvino")
    path = tmp_path / "model.xml"
    assert export("openvino", path) == 0
    expected = predict(tmp_path / "run", *pictures, "--run", run)
    assert_same_results(predict(tmp_path / "file", *pictures, "--model", path), expected)
    assert load(path).description.outputs == ["boxes", "scores", "classes", "masks"]


def test_best_checkpoint_is_what_is_exported(run, export, tmp_path):
    """As predict.py takes it: the file has the weights of model_best.pth, whose scores are lower."""
    folder = shutil.copytree(run, tmp_path / "run")
    state = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    state["roi_heads.box_predictor.cls_score.weight"] /= 2
    torch.save({"model": state}, folder / "model_best.pth")
    line = ["--run", str(folder), "--format", "pt2", "--output", str(tmp_path / "best.pt2")]
    assert export_main(export_parser().parse_args([*line, "--checkpoint", "best"])) == 0
    program = torch.export.load(tmp_path / "best.pt2")
    found = program.state_dict["model.roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(found, state["roi_heads.box_predictor.cls_score.weight"])


def test_a_file_says_what_it_is(exported):
    abouts = [load(path).description for path in exported.values()]
    assert abouts[0] == abouts[1]
    about = abouts[0]
    assert about.outputs == ["boxes", "scores", "classes", "masks"]
    assert (about.color_order, about.score_threshold, about.masks) == ("BGR", 0.05, "probabilities")
    assert (about.image_size, about.min_size, about.max_size, about.resizes) == (None, 96, 128, False)
    assert about.metadata["thing_classes"] == ["circle", "square", "triangle", "star"]
    assert "test_score_thresh: 0.05" in about.config


def test_onnx_has_standard_operators_alone(exported):
    import onnx

    model = onnx.load(exported["onnx"])
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx"}
    kinds = {node.op_type for node in model.graph.node}
    assert {"RoiAlign", "NonMaxSuppression", "Resize"} <= kinds
    onnx.checker.check_model(model)


def blocked(*modules: str) -> str:
    return f"import sys; sys.modules.update(dict.fromkeys({modules!r}))"


def run_python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, env=environment
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_pt2_needs_the_ops_alone(exported, pictures):
    code = f"""
{blocked("detectron2", "onnxruntime", "cv2")}
import numpy as np
from PIL import Image
from mrcnn_plugin.runtime import load
print(len(load(sys.argv[1])(np.asarray(Image.open(sys.argv[2])))))
"""
    found = run_python(code, str(exported["pt2"]), str(pictures[0]))
    assert int(found) == len(load(exported["onnx"])(np.asarray(Image.open(pictures[0])))) > 0


def test_example_needs_neither_torch_nor_detectron2(run, export, pictures, tmp_path):
    """With the picture's size and its masks in the graph, Pillow reads and ONNX Runtime does the rest."""
    path = tmp_path / "whole.onnx"
    assert export("onnx", path, "--resize", "--masks", "pasted") == 0
    code = f"{blocked('torch', 'detectron2', 'mrcnn_plugin', 'cv2')}; import runpy; del sys.argv[0]; "
    code += "runpy.run_path(sys.argv[0])"
    script = (ROOT / "examples" / "onnx_detect.py").read_text()
    example = tmp_path / "onnx_detect.py"
    example.write_text(script.replace("THRESHOLD = 0.5", "THRESHOLD = 0.3"))
    files = [str(file) for file in pictures]
    found = json.loads(run_python(code, str(example), str(path), *files))
    assert_same_results(found, predict(tmp_path / "file", *files, "--model", path))
    # Pillow's own resizing differs by single grey levels.
    expected = predict(tmp_path / "run", *files, "--run", run)
    assert_same_results(found, expected, pixels=0.5, score=0.01, flips=20)


def test_fixed_size(export, run, pictures, tmp_path):
    path = tmp_path / "fixed.pt2"
    assert export("pt2", path, "--image-size", "96x128", "--images", str(pictures[0])) == 0
    model = load(path)
    assert model.description.image_size == [96, 128]
    image = np.asarray(Image.open(pictures[1]))
    prepared, scale_x, scale_y = model.prepare(image)
    assert prepared.shape == (96, 128, 3)
    assert (scale_x, scale_y) == (pytest.approx(96 / 131, abs=0.01), pytest.approx(96 / 131, abs=0.01))
    # Padded with the mean colour, to which normalization gives about 0.
    assert (prepared[:, -1] == np.round(model.description.pixel_mean)).all()


def test_a_file_that_differs_is_not_kept(export, tmp_path, monkeypatch, capsys):
    run_original = parity.OriginalModel.run
    shifted = lambda self, image: {**(found := run_original(self, image)), "boxes": found["boxes"] + 0.2}  # noqa: E731
    monkeypatch.setattr(parity.OriginalModel, "run", shifted)
    path = tmp_path / "model.pt2"
    assert export("pt2", path) == 1
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "the first difference: drawn picture 1: box of class" in printed
    # The file itself is right here.
    assert "the first stage that differs: none once all stages are given out" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["onnx", "model.pt2"], "--output of --format onnx must end in .onnx, got "),
        (["pt2", "a.pt2", "--image-size", "large"], "--image-size must be dynamic or HxW from 32x32 on"),
        (["pt2", "a.pt2", "--image-size", "96x96", "--resize"], "--resize cannot choose the size"),
        (["pt2", "a.pt2", "--checkpoint", "best"], "training with train.best_checkpoint.metric writes it"),
        (
            ["pt2", "a.pt2", "--checkpoint", "best", "--weights", "x.pth"],
            "--checkpoint best names weights of --run FOLDER; --weights names a file",
        ),
        (["pt2", "a.pt2", "--check-tensorrt"], "--check-tensorrt reads ONNX files, got --format pt2"),
        (["pt2", "a.pt2", "--masks", "pasted"], "--masks pasted needs --resize and no fixed --image-size"),
        (["pt2", "a.pt2", "--images", "/nowhere.png"], "--images: no images found: /nowhere.png"),
        (
            ["pt2", "a.pt2", "--opts", "model.roi_heads.box_pooler.pooler_type=ROIPool"],
            "roi_heads.box_pooler: a model that pools by RoIPool cannot be exported",
        ),
    ],
)
def test_bad_command_line(export, tmp_path, arguments, message):
    format, name, *more = arguments
    with pytest.raises(ConfigError) as error:
        export(format, tmp_path / name, *more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_predict_refuses_what_a_file_does_not_take(exported, pictures, tmp_path):
    for arguments, message in (
        (["--device", "cpu"], "--device does not go with --model"),
        (["--score-threshold", "0.01"], "--score-threshold must be at least 0.05"),
    ):
        line = [str(pictures[0]), "--model", str(exported["onnx"]), "--output", str(tmp_path), *arguments]
        with pytest.raises(ConfigError, match=message):
            main(argument_parser().parse_args(line))
