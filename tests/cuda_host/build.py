"""Compiles a CUDA source tree for the host into a library of ops, once for each content."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from . import source

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CSRC = ROOT / "csrc"
CACHE = ROOT / "build" / "cuda_host"
KEEP_SECONDS = 3 * 24 * 3600
#: PyTorch's C functions that engine/torch.cpp answers in place of PyTorch.
WRAPPED = (
    "torch_get_mutable_data_ptr",
    "torch_get_const_data_ptr",
    "aoti_torch_device_type_cuda",
    "aoti_torch_get_current_cuda_stream",
    "aoti_torch_create_device_guard",
    "torch_c10_cuda_check_msg",
    "torch_c10_cuda_free_error_msg",
)


def cuda_sources() -> list[str]:
    """The .cu files of csrc, relative to it."""
    return sorted(str(path.relative_to(CSRC)) for path in CSRC.glob("*/cuda/*.cu"))


def read_tree() -> dict[str, str]:
    """Every source of csrc that a .cu file may include, by its path relative to csrc."""
    paths = [path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh", ".cu")]
    return {str(path.relative_to(CSRC)): path.read_text() for path in [*paths, CSRC / "ops.cpp"]}


def build(
    sources: Iterable[str] | None = None,
    changes: Mapping[str, tuple[str, str]] | None = None,
    *,
    extra: Mapping[str, str] | None = None,
    arch: int = 900,
    cost: bool = False,
) -> tuple[Path, str]:
    """Path of the library and the namespace of its ops.

    Args:
        sources: .cu files relative to csrc; by default all.
        changes: file -> (text, replacement), each of which must change its file: copies with planted bugs.
        extra: further files of the tree, by path, such as kernels of a test.
        arch: what __CUDA_ARCH__ is, 900 for sm_90.
        cost: also note which basic blocks are run, from which costs are counted.
    """
    tree = read_tree() | dict(extra or {})
    for path, (old, new) in (changes or {}).items():
        if tree[path].count(old) != 1:
            raise ValueError(f"{path} must hold exactly once: {old!r}")
        tree[path] = tree[path].replace(old, new)
    sources = list(cuda_sources() if sources is None else sources)
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _Build(tree, compile_flags(arch, cost)).library(sources)


def compile_flags(arch: int, cost: bool) -> list[str]:
    flags = [
        "-std=c++20 -O1 -g1 -fPIC -fvisibility=hidden -U_FORTIFY_SOURCE -Wall -Wno-class-memaccess",
        "-Wno-unknown-pragmas -Wno-sign-compare -Wno-maybe-uninitialized -Wno-array-bounds",
        f"-DTORCH_TARGET_VERSION=0x020a000000000000 -DUSE_CUDA -DCUDA_HOST_ARCH={arch}",
        # Multiplications and additions are fused where a GPU may fuse them.
        "-ffp-contract=fast" + (" -mfma" if _has_fma() else ""),
    ]
    if cost:
        # Everything is inlined, as nvcc does it; and basic blocks are noted and stay in order.
        flags.append("-O2 -finline-functions -fsanitize-coverage=trace-pc -fno-reorder-blocks")
        limits = "max-inline-insns-auto max-inline-insns-single large-function-growth inline-unit-growth"
        flags += [f"--param={limit}=1000000" for limit in limits.split()]
    else:
        flags.append("--param=tsan-instrument-func-entry-exit=0")
    return " ".join(flags).split()


def _has_fma() -> bool:
    if platform.machine() != "x86_64":
        return False
    return " fma " in Path("/proc/cpuinfo").read_text()


class _Build:
    """One source tree and one set of flags. Every file in the cache is named after what it is made of."""

    def __init__(self, tree: Mapping[str, str], flags: list[str]) -> None:
        self.cxx = os.environ.get("CXX") or "g++"
        self.tree = {path: source.for_host(text) for path, text in tree.items()}
        self.flags = flags
        self.headers = _digest(
            flags, self.cxx, torch.__version__, *_texts("include/**/*"), *_texts("engine/*.h")
        )
        self.digest = _digest(self.headers, *sorted(self.tree.items()))
        self.folder = CACHE / f"{self.digest}.csrc"
        torch_package = Path(importlib.util.find_spec("torch").submodule_search_locations[0])
        self.torch_library = torch_package / "lib" / "libtorch_cpu.so"
        self.include = [f"-I{HERE / 'engine'}", f"-I{HERE / 'include'}", f"-I{self.folder}"]
        self.include += ["-isystem", str(torch_package / "include")]

    def library(self, sources: list[str]) -> tuple[Path, str]:
        """Path and namespace of the library of these sources."""
        namespace = f"mrcnn_plugin_cuda_host_{_digest(self.digest, *sources)}"
        library = CACHE / f"{_digest(namespace, *_texts('engine/*.cpp'))}.so"
        if not library.exists():
            _remove_old()
            objects = self._objects(sources, namespace)
            wraps = [f"-Wl,--wrap={name}" for name in WRAPPED]
            line = [self.cxx, "-shared", "-Wl,-Bsymbolic", *wraps, *map(str, objects), "-Wl,--no-as-needed"]
            _make(library, [*line, str(self.torch_library)])
        return library, namespace

    def _objects(self, sources: list[str], namespace: str) -> list[Path]:
        for path, text in self.tree.items():
            target = self.folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        # Every access of these to memory calls the engine; the engine's own files are compiled without.
        line = [
            self.cxx,
            *self.flags,
            "-fsanitize=thread",
            "--param=tsan-instrument-func-entry-exit=0",
            *self.include,
        ]
        line += ["-include", str(self._prefix(line)), f"-ffile-prefix-map={self.folder}=csrc"]
        line += [f"-DCUDA_HOST_NAMESPACE={namespace}", "-x", "c++"]
        jobs = {
            CACHE / f"{_digest(namespace, name)}.o": [*line, "-c", str(self.folder / name)]
            for name in [*sources, "ops.cpp"]
        }
        plain = [flag for flag in self.flags if "sanitize" not in flag and "tsan" not in flag]
        flags = ["-O2" if flag == "-O1" else flag for flag in plain]
        for path in sorted((HERE / "engine").glob("*.cpp")):
            name = CACHE / f"{_digest(self.headers, path.read_text())}.o"
            jobs[name] = [self.cxx, *flags, *self.include, "-c", str(path)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_make, jobs, jobs.values()))
        return list(jobs)

    def _prefix(self, line: list[str]) -> Path:
        """PyTorch's headers, which are read once and not for each source."""
        prefix = CACHE / f"{self.headers}.prefix.h"
        shutil.copyfile(HERE / "include" / "prefix.h", prefix)
        _make(CACHE / f"{self.headers}.prefix.h.gch", [*line, "-x", "c++-header", str(prefix)])
        return prefix


def _texts(pattern: str) -> list[str]:
    return [path.read_text() for path in sorted(HERE.glob(pattern)) if path.is_file()]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _remove_old() -> None:
    """Frees the disk of what was made days ago; what is still wanted is made anew."""
    for path in CACHE.iterdir():
        if time.time() - path.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _make(target: Path, line: list[str]) -> None:
    """Runs a compiler that makes `target`, unless it is there; never leaves half of it."""
    if target.exists():
        return
    part = target.with_name(f"{target.name}.part")
    result = subprocess.run([*line, "-o", str(part)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(line)}\n{result.stderr}")
    os.replace(part, target)
