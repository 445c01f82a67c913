"""Which kernels answer, and what is said where none do."""

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.ops import library, nms_segments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh_warnings():
    library._warn_once.cache_clear()
    yield
    library._warn_once.cache_clear()


def test_native_follows_what_was_loaded(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": None})
    monkeypatch.setattr(library, "_checked", ["a device"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(library.native(device) for device in ("cpu", "cuda", "meta"))


def test_a_missing_library_is_said_once_with_its_reason(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": "_C_cuda.so was not built"})
    with pytest.warns(UserWarning, match=r"native ops for cuda.*_C_cuda\.so was not built.*To fix it"):
        assert not library.native("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not library.native("cuda")


def test_a_device_without_kernels_is_named(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": None, "cuda": None})
    with pytest.warns(UserWarning, match="no kernels exist for device type 'xpu'"):
        assert not library.native("xpu")


def test_without_schemas_even_fake_tensors_use_the_reference(monkeypatch):
    monkeypatch.setattr(library, "STATUS", {"cpu": "_C.so was not built", "cuda": "_C.so was not built"})
    with pytest.warns(UserWarning, match="was not built"):
        assert not library.native("meta")


def test_a_missing_file_and_a_broken_file_are_told_apart(monkeypatch, tmp_path):
    missing, broken = tmp_path / "_C.so", tmp_path / "_C_broken.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(library, "FILES", {"cpu": missing})
    assert "was not built" in library._load("cpu")
    monkeypatch.setattr(library, "FILES", {"cpu": broken})
    assert "could not be loaded" in library._load("cpu")


def test_a_torch_without_cuda_does_not_load_cuda_kernels(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert library._load("cuda") == "this torch was built without CUDA"


@pytest.mark.skipif(library.STATUS["cpu"] is not None, reason="no compiler here: the library was not built")
def test_ops_of_the_sources_are_those_of_the_library(tmp_path, monkeypatch):
    declared = library._declared_schemas(library.SCHEMAS)
    assert len(declared) == library.SCHEMAS.read_text().count("m.def(") > 0
    assert library._refusal() is None
    changed = tmp_path / "ops.cpp"
    changed.write_text(
        library.SCHEMAS.read_text().replace(
            "offsets, float iou_threshold) -> Tensor", "offsets, float iou) -> Tensor"
        )
        + 'm.def("new_op(Tensor boxes) -> Tensor");'
    )
    monkeypatch.setattr(library, "SCHEMAS", changed)
    refusal = library._refusal()
    assert re.search(r"_C\.so was built from other sources .*\(nms_segments, new_op differ\)", refusal)
    assert refusal.endswith("rebuild it: make setup")
    assert "\n" not in refusal


def test_every_op_with_arguments_is_fuzzed():
    fuzzed = (ROOT / "tests" / "sanitize" / "fuzz_ops.cpp").read_text()
    declared = library._declared_schemas(ROOT / "csrc" / "ops.cpp")
    with_arguments = {name for name, schema in declared.items() if f"{name}()" not in schema}
    assert declared.keys() - with_arguments == {"simd_level", "has_matrix_tiles"}
    assert {name for name in with_arguments if f'call("{name}"' not in fuzzed} == set()


def test_a_wheel_has_no_sources_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "SCHEMAS", tmp_path / "ops.cpp")
    assert library._refusal() is None


def test_every_op_refuses_an_outdated_library(monkeypatch):
    monkeypatch.setattr(library, "REFUSAL", "_C.so was built from other sources; rebuild it: make setup")
    with pytest.raises(ConfigError, match="make setup"):
        nms_segments(torch.zeros(1, 4), torch.tensor([0, 1]), 0.5)


@pytest.mark.skipif(not library.FILES["cpu"].exists(), reason="no compiler here: the library was not built")
def test_a_program_with_an_outdated_library_ends_in_one_line(tmp_path):
    # A checkout whose sources declare an op that its library lacks.
    (tmp_path / "csrc").mkdir()
    sources = (ROOT / "csrc" / "ops.cpp").read_text()
    (tmp_path / "csrc" / "ops.cpp").write_text(sources + 'm.def("new_op() -> ()");')
    shutil.copy(ROOT / "train_net.py", tmp_path)
    without = shutil.ignore_patterns("*_cuda.so", "__pycache__")
    shutil.copytree(ROOT / "mrcnn_plugin", tmp_path / "mrcnn_plugin", ignore=without)
    program = subprocess.run(
        [sys.executable, "train_net.py", "--config-file", "Shapes/mask_rcnn_R_18_FPN.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert program.returncode == 2, program.stderr
    (line,) = [line for line in program.stderr.splitlines() if "Warning" not in line]
    assert line.startswith("error: ")
    assert line.endswith("(new_op differs); rebuild it: make setup")


def test_a_named_folder_without_libraries_is_refused(tmp_path):
    code = "from mrcnn_plugin.ops import library; print(library.REFUSAL)"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MRCNN_PLUGIN_LIBRARIES": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith(f"MRCNN_PLUGIN_LIBRARIES={tmp_path}: ")
