"""The CPU kernels under sanitizers: `make sanitize`, or a part of it.

    python tests/sanitize/run.py [address] [thread] [fuzz] [--seconds 600] [-- PYTEST ARGUMENTS]

`address` and `thread` build `_C.so` with AddressSanitizer and UndefinedBehaviorSanitizer, or with
ThreadSanitizer, into build/sanitize/, and run the ops' tests on it. `fuzz` feeds arbitrary bytes to every op
(fuzz_ops.cpp): by libFuzzer where there is clang, and by seed with g++, as clang does not compile the kernels
of wider instruction sets. The normal library is neither replaced nor loaded. Whatever a sanitizer reports
ends the run with exit status 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "sanitize"
PARTS = ("address", "thread", "fuzz")
# Conversions of numbers that do not fit are undefined, too, but not among those of "undefined".
UNDEFINED = "undefined,float-cast-overflow"
OPTIONS = {
    # What Python and PyTorch keep until the process ends is no leak of the ops. Too large a tensor is an
    # error of PyTorch's, not of AddressSanitizer's.
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    # Python and PyTorch are not instrumented: of their own reads and writes ThreadSanitizer sees only those
    # that go through memcpy and the like, and not what orders them. A test forks a process that has threads.
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:report_signal_unsafe=0:die_after_fork=0",
}
# By multiplications fused with additions, of which a build with a sanitizer has none.
OPTIMIZED = "tests/ops/test_simd_levels.py::test_the_setting_chooses_the_kernels"
NATIVE_ONLY = ["-p", "native_only", "-m", "not cuda and not slow", f"--deselect={OPTIMIZED}"]


def main() -> None:
    arguments = sys.argv[1:]
    end = arguments.index("--") if "--" in arguments else len(arguments)
    arguments, pytest_arguments = arguments[:end], arguments[end + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; by default all")
    parser.add_argument("--seconds", type=int, default=600, help="of fuzzing in all (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs drawn without libFuzzer")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    runs = {
        "address": lambda: test_with("address", pytest_arguments),
        "thread": lambda: test_with("thread", pytest_arguments),
        "fuzz": lambda: fuzz(options.seconds, options.seed),
    }
    failed = [part for part in options.parts or PARTS if not runs[part]()]
    if failed:
        raise SystemExit(f"sanitize: not clean: {', '.join(failed)}")
    print("sanitize: clean")


def test_with(sanitizer: str, arguments: list[str]) -> bool:
    """Whether the ops' tests pass on a library with this sanitizer, and it reports nothing."""
    names = f"address,{UNDEFINED}" if sanitizer == "address" else sanitizer
    library = build(sanitizer, names)
    preloaded = [compilers_file("libasan.so" if sanitizer == "address" else "libtsan.so")]
    if sanitizer == "thread":
        threads = library.with_name("threads.so")
        flags = ["-shared", "-fPIC", "-std=c++20", "-O1", "-g", "-fsanitize=thread"]
        run(["g++", *flags, HERE / "threads.cpp", "-o", threads])
        preloaded.append(threads)
    # Before the sanitizer first looks for its functions.
    preloaded.append(compilers_file("libstdc++.so"))
    reports = fresh_folder(BUILD / f"{sanitizer}_reports")
    command = [*unrandomised(sanitizer), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        "LD_PRELOAD": " ".join(map(str, preloaded)),
        "MRCNN_PLUGIN_LIBRARIES": str(library.parent),
        # Threads are those of threads.cpp, or few: OpenMP's are not what is tested.
        "OMP_NUM_THREADS": "1" if sanitizer == "thread" else "2",
        "CI": "1",
        **{name: f"{text}:log_path={reports}/report" for name, text in OPTIONS.items()},
    }
    status = run([*command, *NATIVE_ONLY, *(arguments or ["tests/ops"])], environment, check=False)
    written = sorted(reports.iterdir())
    for report in written:
        print(f"--- {report.relative_to(ROOT)}\n{report.read_text(errors='replace')[:6000]}")
    print(f"sanitize: {sanitizer}: pytest's exit status {status}, {len(written)} reports")
    return status == 0 and not written


def fuzz(seconds: int, seed: int) -> bool:
    """Whether no input of that many seconds in all makes an op fail."""
    clang = clang_compiler()
    if clang is None:
        print("sanitize: no clang++ (apt-get install clang): inputs are drawn by seed, none by libFuzzer")
        return fuzz_by_seed(seconds, seed)
    return fuzz_by_seed(seconds // 2, seed) & fuzz_by_coverage(clang, seconds - seconds // 2)


def fuzz_by_seed(seconds: int, seed: int) -> bool:
    library = build("address", f"address,{UNDEFINED}")
    program = library.with_name("fuzz_ops")
    sources = [HERE / "fuzz_ops.cpp", HERE / "random_inputs.cpp"]
    link("g++", f"address,{UNDEFINED}", sources, library, program)
    status = run([program, str(seconds), str(seed)], fuzz_environment(), check=False)
    print(f"sanitize: inputs by seed, {seconds} s: exit status {status}")
    return status == 0


def fuzz_by_coverage(clang: str, seconds: int) -> bool:
    names = f"address,{UNDEFINED}"
    library = build("fuzzer", f"fuzzer-no-link,{names}", clang)
    program = library.with_name("fuzz_ops")
    link(clang, f"fuzzer,{names}", [HERE / "fuzz_ops.cpp"], library, program)
    failures = BUILD / "failures"
    failures.mkdir(exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-max_len=16384"]
    output = [f"-artifact_prefix={failures}/", "-verbosity=0", "-print_final_stats=1"]
    with tempfile.TemporaryDirectory() as corpus:
        command = [program, *limits, *output, "-len_control=20", corpus]
        status = run(command, fuzz_environment(), check=False)
        kept = len(list(Path(corpus).iterdir()))
    print(f"sanitize: libFuzzer, {seconds} s: exit status {status}, {kept} inputs kept")
    return status == 0


def fuzz_environment() -> dict[str, str]:
    # torch's part of a std::vector is not instrumented, which looks like a use behind its end.
    asan = OPTIONS["ASAN_OPTIONS"] + ":detect_container_overflow=0:handle_abort=1"
    # g++'s UndefinedBehaviorSanitizer knows of no callback of AddressSanitizer's, which names the seed.
    ubsan = OPTIONS["UBSAN_OPTIONS"] + ":abort_on_error=1"
    return {"OMP_NUM_THREADS": "1", **OPTIONS, "ASAN_OPTIONS": asan, "UBSAN_OPTIONS": ubsan}


def build(name: str, sanitizers: str, compiler: str = "g++") -> Path:
    """Builds `_C.so` with sanitizers into build/sanitize/NAME; only what changed is compiled."""
    folder = Path("build", "sanitize", name)
    print(f"sanitize: compiling csrc with {compiler} -fsanitize={sanitizers}", flush=True)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--build-lib", folder]
    environment = {"MRCNN_PLUGIN_SANITIZE": sanitizers, "CXX": shutil.which(compiler)}
    run([*command, "--build-temp", folder / "objects"], environment)
    library = ROOT / folder / "mrcnn_plugin" / "_C.so"
    if not library.exists():
        raise SystemExit(f"sanitize: {library} was not built")
    return library


def link(compiler: str, sanitizers: str, sources: list[Path], library: Path, program: Path) -> None:
    """Builds a C++ program on torch's own headers and the given library."""
    folder = Path(importlib.util.find_spec("torch").origin).parent
    includes = [f"-isystem{folder / 'include'}", f"-isystem{folder / 'include/torch/csrc/api/include'}"]
    newest = max(path.stat().st_mtime for path in [*sources, Path(__file__)])
    if program.exists() and program.stat().st_mtime > newest:
        return
    flags = [f"-fsanitize={sanitizers}", "-O1", "-g", "-std=c++20", "-Wall", "-Wextra"]
    places = [f"-L{folder / 'lib'}", f"-Wl,-rpath,{folder / 'lib'},-rpath,{library.parent}"]
    torch_libraries = ["-Wl,--no-as-needed", "-ltorch_cpu", "-ltorch", "-lc10"]
    run([compiler, *flags, *includes, *sources, library, *places, *torch_libraries, "-o", program])


def clang_compiler() -> str | None:
    """$CLANGXX, or clang++ of any version on the path."""
    names = [os.environ.get("CLANGXX"), "clang++", *(f"clang++-{version}" for version in range(30, 13, -1))]
    return next((name for name in names if name and shutil.which(name)), None)


def compilers_file(name: str) -> Path:
    found = subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        raise SystemExit(f"sanitize: g++ has no {name}: install the sanitizers' libraries of your compiler")
    path = Path(found).resolve()
    # A linker script on some systems.
    script = (
        re.search(r"(?:INPUT|GROUP)\s*\(\s*(\S+)", path.read_text()) if path.stat().st_size < 4096 else None
    )
    return Path(script[1]) if script else path


def unrandomised(sanitizer: str) -> list[str]:
    """ThreadSanitizer wants the addresses that a process has without randomisation."""
    return ["setarch", "-R"] if sanitizer == "thread" and shutil.which("setarch") else []


def fresh_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def run(command: list, environment: dict[str, str] | None = None, *, check: bool = True) -> int:
    status = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env={**os.environ, **(environment or {})}, check=False
    ).returncode
    if check and status:
        raise SystemExit(f"sanitize: {Path(command[0]).name} failed")
    return status


if __name__ == "__main__":
    main()
