"""Build of the two native libraries; everything else of the package is declared in pyproject.toml.

`_C.so` holds every op's schema and CPU kernel, `_C_cuda.so` the CUDA kernels. Both use only PyTorch's
stable ABI, so one build serves every PyTorch from 2.10 on and every Python. torch's own BuildExtension is
not used because it ties the result to the CUDA of the torch that happens to be installed (and refuses to
compile CUDA beside a CPU-only torch), whereas these libraries depend on neither.

Environment: TORCH_CUDA_ARCH_LIST (default "8.0;9.0+PTX"), CUDA_HOME, CXX, NVCC_FLAGS, MRCNN_PLUGIN_NO_CUDA=1,
MRCNN_PLUGIN_NO_CSRC=1, MAX_JOBS; MRCNN_PLUGIN_SANITIZE names sanitizers ("address,undefined") for a CPU
library beside the normal one (tests/sanitize/run.py). A file is compiled again when it, a header or its
command line changed.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# The oldest PyTorch whose stable ABI the sources use: 2.10.
TORCH_TARGET_VERSION = "0x020a000000000000"
CXX_FLAGS = [
    "-O3",
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
]


def warning_flags(compiler: str) -> list[str]:
    """g++ takes vectors that are filled lane by lane for uninitialised; clang does not know its option."""
    return [] if "clang" in Path(compiler).name else ["-Wno-maybe-uninitialized"]


def sanitizer_flags() -> list[str]:
    names = os.environ.get("MRCNN_PLUGIN_SANITIZE")
    return [f"-fsanitize={names}", "-O1", "-g", "-fno-omit-frame-pointer"] if names else []


def torch_include() -> Path | None:
    """Folder of the installed torch's headers, without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    include = Path(spec.submodule_search_locations[0], "include")
    stable = include / "torch" / "csrc" / "stable" / "library.h"
    return include if stable.exists() else None


def cuda_home() -> Path | None:
    """Root of a CUDA toolkit with nvcc and the static runtime: $CUDA_HOME, nvcc on PATH, the usual place."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), nvcc and Path(nvcc).resolve().parent.parent, "/usr/local/cuda"]
    for home in map(Path, filter(None, candidates)):
        if (home / "bin" / "nvcc").exists() and cudart_static(home):
            return home
    return None


def cudart_static(home: Path) -> Path | None:
    found = [home / lib / "libcudart_static.a" for lib in ("lib64", "lib")]
    return next((path for path in found if path.exists()), None)


def gencode_flags() -> list[str]:
    """nvcc -gencode flags of TORCH_CUDA_ARCH_LIST, in torch's notation ("8.0;9.0+PTX")."""
    flags = []
    for arch in os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX").replace(" ", ";").split(";"):
        if not arch:
            continue
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def warn(message: str) -> None:
    """One line to the person who installs, past setuptools' own output."""
    print(f"mrcnn_plugin: WARNING: {message}", file=sys.stderr, flush=True)


def command_record(obj: str | Path) -> Path:
    """Where the command line is kept that an object file was made by."""
    return Path(obj).with_suffix(".command")


def recorded_command(obj: Path) -> str | None:
    record = command_record(obj)
    return record.read_text() if record.exists() else None


def is_cuda(ext: Extension) -> bool:
    return any(source.endswith(".cu") for source in ext.sources)


class BuildOps(build_ext):
    """Compiles csrc/ with the C++ compiler and nvcc; a missing tool costs speed, never the install."""

    def run(self) -> None:
        reason = self.why_not()
        if reason:
            warn(f"{reason}; installing without native ops: the slow PyTorch reference ops will be used.")
            self.extensions = []
            return
        if self.inplace and sanitizer_flags():
            raise SystemExit(
                "MRCNN_PLUGIN_SANITIZE does not go with --inplace, where the normal library is: "
                "give --build-lib"
            )
        self.extensions = [ext for ext in self.extensions if not is_cuda(ext) or self.can_build_cuda()]
        super().run()

    def why_not(self) -> str | None:
        if os.environ.get("MRCNN_PLUGIN_NO_CSRC"):
            return "MRCNN_PLUGIN_NO_CSRC is set"
        self.cxx = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        if not self.cxx or not shutil.which(self.cxx):
            return "no C++ compiler found (install g++, or set CXX)"
        self.include = torch_include()
        if self.include is None:
            return "no torch >= 2.10 to compile against (install torch first and use --no-build-isolation)"
        return None

    def can_build_cuda(self) -> bool:
        if os.environ.get("MRCNN_PLUGIN_NO_CUDA") or sanitizer_flags():
            return False
        if cuda_home() is None:
            warn("no nvcc found: CUDA tensors will use the slow PyTorch reference ops.")
            return False
        return True

    def get_ext_filename(self, fullname: str) -> str:
        # Not a Python module but a library for torch.ops.load_library: no Python version in its name.
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def build_extension(self, ext: Extension) -> None:
        home = cuda_home() if is_cuda(ext) else None
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        objects = [Path(self.build_temp, ext.name, source).with_suffix(".o") for source in ext.sources]
        for folder in {obj.parent for obj in objects}:
            folder.mkdir(parents=True, exist_ok=True)
        commands = [self.compile_command(source, obj, home) for source, obj in zip(ext.sources, objects)]
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        headers = [*ROOT.glob("csrc/**/*.h"), *ROOT.glob("csrc/**/*.cuh")]
        newest_header = max(p.stat().st_mtime for p in [ROOT / "setup.py", *headers])
        stale = [
            command
            for command, source, obj in zip(commands, ext.sources, objects)
            if self.force
            or not obj.exists()
            or obj.stat().st_mtime < max(newest_header, Path(ROOT, source).stat().st_mtime)
            or recorded_command(obj) != shlex.join(command)
        ]
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self.call, stale))
        self.link(target, objects, home)

    def compile_command(self, source: str, obj: Path, home: Path | None) -> list[str]:
        defines = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
        includes = [f"-I{ROOT / 'csrc'}", "-isystem", str(self.include)]
        # Written beside the target and renamed, so that an interrupted build leaves no half an object.
        part = obj.with_suffix(".part.o")
        if home is None:
            tool = [self.cxx, *CXX_FLAGS, *warning_flags(self.cxx), *sanitizer_flags()]
        else:
            tool = [str(home / "bin" / "nvcc"), "-ccbin", self.cxx, "-O3", "-std=c++20", "-DUSE_CUDA"]
            tool += [*gencode_flags(), "--threads=2", "-Xcompiler=-fPIC,-fvisibility=hidden"]
            tool += shlex.split(os.environ.get("NVCC_FLAGS", ""))
        return [*tool, *defines, *includes, "-c", source, "-o", str(part), str(obj)]

    def call(self, command: list[str]) -> None:
        *compile_line, obj = command
        start = time.time()
        subprocess.run(compile_line, check=True, cwd=ROOT)
        # As old as what was read: a source that changed meanwhile is compiled the next time.
        os.utime(compile_line[-1], (start, start))
        os.replace(compile_line[-1], obj)
        command_record(obj).write_text(shlex.join(command))

    def link(self, target: Path, objects: list[Path], home: Path | None) -> None:
        # The CUDA runtime is linked statically for the same reason that torch's ABI is the stable one:
        # nothing of the machine that built it needs to be found on the machine that runs it.
        torch_libraries = ["libtorch_cpu.so"] + (["libtorch_cuda.so"] if home else [])
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            part = Path(folder, target.name)
            line = [self.cxx, "-shared", "-o", str(part), *map(str, objects), "-Wl,--no-as-needed"]
            line += [self.stand_in(name, folder) for name in torch_libraries]
            if home is not None:
                line += [str(cudart_static(home)), "-ldl", "-lrt", "-lpthread"]
            line += sanitizer_flags()
            subprocess.run(line, check=True, cwd=ROOT)
            os.replace(part, target)

    def stand_in(self, name: str, folder: str) -> str:
        """An empty library of torch's soname to link against: the real one is in the process at load time.

        So a CPU-only torch is enough to build the CUDA library, and no path of it stays in the result.
        """
        path = str(Path(folder, name))
        subprocess.run(
            [self.cxx, "-shared", f"-Wl,-soname,{name}", "-x", "c++", os.devnull, "-o", path], check=True
        )
        return path


class Wheel(bdist_wheel):
    """The libraries hold no Python symbol: one wheel a platform serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def sources(pattern: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(pattern))


EXTENSIONS = {
    "mrcnn_plugin._C": ["csrc/ops.cpp", *sources("csrc/*/cpu/*.cpp")],
    "mrcnn_plugin._C_cuda": sources("csrc/*/cuda/*.cu"),
}

setup(
    ext_modules=[Extension(name, files) for name, files in EXTENSIONS.items() if files],
    cmdclass={"build_ext": BuildOps, "bdist_wheel": Wheel},
)
