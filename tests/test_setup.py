"""The lock file, what `make setup` does again, building without a compiler, what a wheel holds, flags."""

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

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


def locked() -> list[tuple[Requirement, list[str]]]:
    """(requirement, its hashes) of requirements.lock."""
    entries = re.sub(r"^#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    parts = [re.split(r"\s*\\\s+--hash=", entry) for entry in re.split(r"\n(?=\S)", entries.strip())]
    return [(Requirement(requirement), hashes) for requirement, *hashes in parts]


def test_the_lock_pins_every_release_by_its_hashes_and_names_no_index():
    for requirement, hashes in locked():
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|^-", text, re.MULTILINE)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_lock_has_one_release_of_each_requirement_within_its_range(python):
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    chosen = [
        requirement
        for requirement, _ in locked()
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]
    releases = {requirement.name.lower(): str(requirement.specifier)[2:] for requirement in chosen}
    assert len(releases) == len(chosen)
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line]
    makefile = (ROOT / "Makefile").read_text()
    wanted += map(
        Requirement, re.search(r"^WITHOUT_DEPENDENCIES := (.*)$", makefile, re.MULTILINE)[1].split()
    )
    for requirement in wanted:
        assert requirement.specifier.contains(releases[requirement.name.lower()]), requirement


def make(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def finished_setup(tmp_path) -> Path:
    """A checkout, in a path with a space, as `make setup` leaves it."""
    folder = tmp_path / "a path" / "checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.txt", "requirements.lock", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("csrc", "benchmarks", "tests/cuda_host"):
        shutil.copytree(ROOT / name, folder / name)
    # In the order in which they were made, a second apart.
    for age, stamp in enumerate([".built", ".installed", ".detectron2", ".requirements", ".uv"]):
        (folder / ".venv" / stamp).touch()
        os.utime(folder / ".venv" / stamp, (time.time() + 9 - age,) * 2)
    return folder


def test_a_finished_setup_does_nothing_again(finished_setup):
    assert "Nothing to be done" in make(finished_setup, "setup")


def test_a_changed_kernel_is_compiled_without_a_look_at_the_network(finished_setup):
    source = finished_setup / "csrc" / "ops.cpp"
    os.utime(source, (time.time() + 60,) * 2)
    commands = make(finished_setup, "--dry-run", "setup")
    assert "setup.py --quiet build_ext --inplace" in commands
    assert not re.search(r"\bpip\b", commands)


def test_a_changed_setup_py_is_installed_offline(finished_setup):
    os.utime(finished_setup / "setup.py", (time.time() + 60,) * 2)
    commands = make(finished_setup, "--dry-run", "setup")
    installs = [line for line in commands.splitlines() if re.search(r"\bpip\b", line)]
    assert len(installs) == 1
    assert "--offline" in installs[0]


def test_newest_takes_the_ranges_instead_of_the_lock(finished_setup):
    os.utime(finished_setup / "requirements.txt", (time.time() + 60,) * 2)
    assert "--require-hashes --build-constraints" in make(finished_setup, "--dry-run", "setup")
    newest = make(finished_setup, "--dry-run", "setup", "NEWEST=1")
    assert "--upgrade -r requirements.txt" in newest
    assert "--upgrade --no-deps 'cityscapesscripts" in newest


def test_uv_itself_is_taken_from_the_lock(finished_setup):
    (line,) = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if "uv.txt" in line and "sed" in line
    ]
    command = line.strip().lstrip("@").replace("$(VENV)", ".venv").replace("$$", "$")
    subprocess.run(["sh", "-c", command], cwd=finished_setup, check=True)
    entry = (finished_setup / ".venv" / "uv.txt").read_text()
    assert re.fullmatch(r"uv==[\w.]+ \\\n(    --hash=sha256:\w{64} \\\n)*    --hash=sha256:\w{64}\n", entry)


def test_a_build_with_sanitizers_does_not_replace_the_library(checkout):
    result = run_setup(checkout, "build_ext", "--inplace", MRCNN_PLUGIN_SANITIZE="address")
    assert result.returncode == 1
    assert "MRCNN_PLUGIN_SANITIZE does not go with --inplace" in result.stderr


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


@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_other_flags_compile_again_and_the_same_ones_do_not(checkout):
    for folder in (checkout / "csrc").glob("*/cpu"):
        shutil.rmtree(folder)
    (checkout / "csrc" / "ops.cpp").write_text("int nothing = 0;")

    def compiled(**environment: str) -> float:
        arguments = ("build_ext", "--build-lib", "built", "--build-temp", "objects")
        result = run_setup(checkout, *arguments, MRCNN_PLUGIN_NO_CUDA="1", **environment)
        assert result.returncode == 0, result.stderr
        return next(checkout.glob("objects/**/ops.o")).stat().st_mtime

    first = compiled()
    assert compiled() == first
    assert compiled(MRCNN_PLUGIN_SANITIZE="undefined") > first


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
