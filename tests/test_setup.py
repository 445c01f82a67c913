"""Building without a compiler, what a wheel holds, and the flags of the CUDA build."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of what a build reads, so that tests in parallel do not build in one folder."""
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns(
        ".*", "build", "output", "datasets", "tests", "*.so", "__pycache__", "*.egg-info"
    )
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


def run_setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_without_a_compiler_the_build_succeeds_and_says_what_is_missing(checkout, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    result = run_setup(checkout, "build_ext", "--inplace", PATH=str(empty), CXX="")
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert "no C++ compiler found (install g++, or set CXX)" in warnings[0]
    assert not list(checkout.glob("mrcnn_plugin/*.so"))


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_without_nvcc_the_cpu_library_is_built_of_all_sources(checkout):
    # The schemas and two small files, so that the test is short; both files have one name.
    for folder in (checkout / "csrc").glob("*/cpu"):
        shutil.rmtree(folder)
    for name in ("polygons", "masks"):
        source = checkout / "csrc" / name / "cpu" / "same_name.cpp"
        source.parent.mkdir()
        source.write_text(f'extern "C" __attribute__((visibility("default"))) int of_{name} = 1;')
    result = run_setup(checkout, "build_ext", "--inplace", MRCNN_PLUGIN_NO_CUDA="1")
    assert result.returncode == 0, result.stderr
    (built,) = checkout.glob("mrcnn_plugin/*.so")
    assert built.name == "_C.so"
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", built], capture_output=True, text=True, check=True
    )
    assert {"of_polygons", "of_masks"} <= {line.split()[-1] for line in listing.stdout.splitlines()}


def test_a_wheel_holds_configs_and_projects_and_fits_every_python(checkout):
    result = run_setup(checkout, "bdist_wheel", "-q", MRCNN_PLUGIN_NO_CSRC="1")
    assert result.returncode == 0, result.stderr
    (wheel,) = checkout.glob("dist/*.whl")
    assert "-py3-none-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "projects"):
        sources = {
            p.relative_to(ROOT) for p in ROOT.glob(f"{folder}/**/*.py") if "__pycache__" not in p.parts
        }
        assert sources
        assert {f"mrcnn_plugin/{path}" for path in sources} <= names


def test_the_arch_list_is_honoured(monkeypatch):
    code = (
        "import setuptools; setuptools.setup = lambda **k: None; import setup; print(setup.gencode_flags())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TORCH_CUDA_ARCH_LIST": "8.6 12.0+PTX"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert eval(out) == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]
