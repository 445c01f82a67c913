"""AOTInductor packages: what is refused, what they say, and the same detections in Python and in C++."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exported_models import MODELS, description_of, image_of, random_model
from helpers.predictions import assert_same_results, predict
from PIL import Image

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.export import DetectionGraph, load, trace
from mrcnn_plugin.export.aoti import check_aoti
from mrcnn_plugin.ops import has_matrix_tiles, library
from mrcnn_plugin.optimization import optimize
from mrcnn_plugin.runtime import processor

ROOT = Path(__file__).resolve().parents[2]
SIZE = ("--image-size", "96x128")


def test_what_is_compiled_and_what_a_c_program_is_told(export, tmp_path, monkeypatch):
    """As far as the compiler, whose work is in a slow test."""
    given = {}

    def compile_and_package(program, package_path, inductor_configs):
        given.update(
            inductor_configs, path=package_path, targets={node.target for node in program.graph.nodes}
        )
        raise RuntimeError("undefined reference\nmore")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", compile_and_package)
    with pytest.raises(ConfigError, match="AOTInductor cannot compile the model: undefined reference"):
        export("aoti", tmp_path / "model.aoti.pt2", *SIZE)
    assert not list(tmp_path.iterdir())
    about = given["aot_inductor.metadata"]
    assert json.loads(about.pop("mrcnn_plugin"))["image_size"] == [96, 128]
    words = {name: text.split() for name, text in about.items()}
    assert set(words.pop("instructions")) == processor.instructions()
    assert [float(mean) for mean in words.pop("pixel_mean")] == pytest.approx([103.53, 116.28, 123.675])
    assert words == {
        "outputs": ["boxes", "scores", "classes", "masks"],
        "color_order": ["BGR"],
        "image_size": ["96", "128"],
        "score_threshold": ["0.05"],
        "mask_threshold": ["0.5"],
        "category_ids": ["7", "8", "9", "10"],
    }
    assert given["path"].endswith("model.aoti.pt2")
    # Nothing that only Python has: each op is PyTorch's own, or in _C.so.
    ops = {target.name() for target in given["targets"] if isinstance(target, torch._ops.OpOverload)}
    ours = {name.partition("::")[2] for name in ops if name.startswith("mrcnn_plugin::")}
    assert {"multi_level_roi_align", "nms_mask"} <= ours <= set(library._declared_schemas(library.SCHEMAS))
    assert {name.partition("::")[0] for name in ops} == {"aten", "mrcnn_plugin"}


@pytest.mark.parametrize(
    "op",
    [
        "winograd_conv2d",
        pytest.param(
            "split_conv2d",
            marks=pytest.mark.skipif(not has_matrix_tiles(), reason="this processor has no matrix tiles"),
        ),
    ],
)
def test_own_convolutions_stay_in_the_graph(op):
    """A convolution of 64 channels is one op of _C.so, as predict.py computes it."""
    model = random_model(MODELS["Mask R-CNN, FPN"]())
    model = optimize(model, matrix_tiles=op == "split_conv2d")
    program = trace(DetectionGraph(model).eval(), (64, 96))
    calls = [node for node in program.graph.nodes if op in str(node.target)]
    assert len(calls) > 10
    image = image_of(64, 96)
    found, expected = program.module()(image), DetectionGraph(model).eval()(image)
    assert len(expected["scores"]) > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aoti", "a.aoti.pt2"], "--format aoti needs --image-size HxW"),
        (["aoti", "a.pt2", *SIZE], "--output of --format aoti must end in .aoti.pt2, got "),
        (["pt2", "a.aoti.pt2"], ".aoti.pt2 is the ending of --format aoti, got "),
        (["aoti", "a.aoti.pt2", *SIZE, "--resize"], "--resize cannot choose the size"),
    ],
)
def test_bad_command_line(export, tmp_path, arguments, message):
    format, name, *more = arguments
    with pytest.raises(ConfigError) as error:
        export(format, tmp_path / name, *more)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_compiler():
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, such as g\+\+, or the one that CXX names"),
    ):
        check_aoti((64, 64))


def package(path: Path, metadata: dict | str | None) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/archive_format", "pt2")
        if metadata is not None:
            text = metadata if isinstance(metadata, str) else json.dumps(metadata)
            file.writestr("model/data/aotinductor/model/abc.wrapper_metadata.json", text)
    return path


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "is no AOTInductor package: it has no data/aotinductor/model"),
        ("{", "is no AOTInductor package: "),
        ({"AOTI_DEVICE_KEY": "cpu"}, "was not written by export.py"),
        (
            {"mrcnn_plugin": description_of(["boxes"]).to_json(), "instructions": "sse2 avx4096"},
            "was compiled for a processor with .*avx4096, which this one lacks: export the model",
        ),
        ({"mrcnn_plugin": description_of(["boxes"]).to_json()}, "cannot be loaded by PyTorch "),
    ],
)
def test_files_that_are_refused(tmp_path, metadata, message):
    path = package(tmp_path / "none.aoti.pt2", metadata)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_no_archive(tmp_path):
    (tmp_path / "none.aoti.pt2").write_bytes(b"no package")
    with pytest.raises(ConfigError, match=r"none\.aoti\.pt2 is no AOTInductor package: File is not a zip"):
        load(tmp_path / "none.aoti.pt2")


@pytest.fixture(scope="module")
def aoti_file(export, tmp_path_factory) -> Path:
    """A package for pictures of 96 x 128, which compiling takes a minute."""
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("aoti") / "model.aoti.pt2"
    assert export("aoti", path, *SIZE) == 0
    return path


@pytest.mark.slow
def test_predictions_are_those_of_the_pt2_file(export, aoti_file, pictures, tmp_path):
    path = tmp_path / "model.pt2"
    assert export("pt2", path, *SIZE) == 0
    expected = predict(tmp_path / "pt2", *pictures, "--model", path)
    assert_same_results(predict(tmp_path / "aoti", *pictures, "--model", aoti_file), expected)
    about, other = load(aoti_file).description, load(path).description
    assert about == other
    # No picture at all, and one without detections.
    model = load(aoti_file)
    assert len(model(np.full((40, 50, 3), 127, dtype=np.uint8))) == len(
        load(path)(np.full((40, 50, 3), 127, dtype=np.uint8))
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_the_program_in_cpp(aoti_file, pictures, tmp_path):
    """examples/cpp, built by CMake, writes what predict.py writes of the same package, without Python."""
    files = []
    for picture in pictures:
        files.append(tmp_path / f"{picture.stem}.ppm")
        Image.open(picture).convert("RGB").save(files[-1])
    build = tmp_path / "build"
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    for command in (
        ["cmake", "-S", str(ROOT / "examples" / "cpp"), "-B", str(build), python],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr

    def detect(*arguments) -> subprocess.CompletedProcess:
        command = [str(build / "detect"), str(library.FILES["cpu"]), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    # The first has the size of the model; of others, Pillow's resizing differs by single grey levels.
    done = detect(aoti_file, 0.3, files[0])
    assert done.returncode == 0, done.stderr
    expected = predict(tmp_path / "first", files[0], "--model", aoti_file)
    assert_same_results(json.loads(done.stdout), expected, pixels=1e-3, score=1e-5, flips=0)
    done = detect(aoti_file, 0.3, *files)
    expected = predict(tmp_path / "all", *files, "--model", aoti_file)
    assert_same_results(json.loads(done.stdout), expected, pixels=0.5, score=0.01, flips=20)

    broken = tmp_path / "broken.ppm"
    broken.write_bytes(b"P6 30000 3 255\n")
    done = detect(aoti_file, 0.3, broken)
    assert (done.returncode, done.stderr) == (1, f"error: {broken}: ends before its last pixel\n")
    done = detect(aoti_file, 0.01, files[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: THRESHOLD must be at least the model's, 0.05")
    done = detect(package(tmp_path / "other.aoti.pt2", {"instructions": "avx4096"}), 0.3, files[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert "avx4096, which this one lacks" in done.stderr
