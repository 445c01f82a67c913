"""Shows that the one CPU library that was built here runs unchanged under other versions of PyTorch.

    python tests/abi/check_stable_abi.py [--torch 2.10.0 --torch newest ...] [--python python3.12] [--uv uv]

For each version it makes a virtual environment in a temporary folder, installs that torch with its
torchvision and what the ops import, loads `mrcnn_plugin/_C.so` with torch.ops.load_library and runs
RoIAlign forward and backward on fixed input. The digests of all versions must be equal, and the file must not
have changed. Then every op is compared with its PyTorch twin (`mrcnn_plugin.ops.self_check`) there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "mrcnn_plugin" / "_C.so"

# Runs in the other environment: only torch and the library are there.
PROBE = """
import hashlib, sys, torch
torch.ops.load_library(sys.argv[1])
op = torch.ops.mrcnn_plugin.multi_level_roi_align
backward = torch.ops.mrcnn_plugin.multi_level_roi_align_backward
count = 2 * 5 * 16 * 20
maps = [(torch.arange(count // 4**i) % 97 / 97).reshape(2, 5, 16 >> i, 20 >> i) for i in range(2)]
rois = torch.tensor([[0, 1, 2, 30, 40], [1, 5.3, 4.1, 12.7, 11.9], [1, -9, -9, 70, 80]])
digest = hashlib.sha256()
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for layout in (torch.contiguous_format, torch.channels_last):
        features = [m.to(dtype).contiguous(memory_format=layout) for m in maps]
        for max_pool in (False, True):
            tail = (0, 32.0, 2, True, max_pool)
            pooled = op(features, rois, [0.25, 0.125], 3, 2, *tail)
            grads = backward(pooled, features, rois, [0.25, 0.125], *tail, False)
            for result in (pooled, *grads):
                digest.update(result.contiguous().view(torch.uint8).numpy().tobytes())
try:
    op([maps[0]], rois[:, :4], [1.0], 2, 2, 2, 32.0, 2, True, False)
except RuntimeError as error:
    assert "boxes must have shape (K, 5)" in str(error), error
else:
    raise SystemExit("bad boxes raised no error")
print(torch.__version__, digest.hexdigest())
"""

SELF_CHECK = """
import platform
from mrcnn_plugin.ops import library, self_check
if library.STATUS["cpu"]:
    raise SystemExit(library.STATUS["cpu"])
results = self_check.differences("cpu", thorough=True)
wrong = [f"{name}: {what}" for name, what in results if what]
if wrong or not results:
    raise SystemExit("; ".join(wrong) or "nothing was compared")
print(platform.python_version(), len(results))
"""


def probe(python: str | Path, library: Path = LIBRARY) -> tuple[str, str]:
    """The torch version of an interpreter, and the digest of what the library computes under it."""
    done = subprocess.run(
        [str(python), "-c", PROBE, str(library)],
        capture_output=True,
        text=True,
        check=False,
        cwd=library.parent.root,
    )
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr.strip()}")
    version, digest = done.stdout.split()
    return version, digest


def self_check(python: str | Path) -> str:
    """Compares every op with its PyTorch twin; says under which Python, and how many comparisons agree."""
    done = subprocess.run(
        [str(python), "-c", SELF_CHECK],
        capture_output=True,
        text=True,
        check=False,
        cwd=LIBRARY.parent.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        raise SystemExit(f"{python}: {done.stderr.strip()}")
    version, count = done.stdout.split()
    return f"Python {version}, {count} comparisons of ops with their PyTorch twins agree"


def make_environment(uv: str, folder: Path, version: str, python: str) -> Path:
    subprocess.run([uv, "venv", "--quiet", "--python", python, str(folder)], check=True)
    inside = folder / "bin" / "python"
    torch = "torch" if version == "newest" else f"torch=={version}"
    # What the ops and their twins import.
    wanted = [torch, "torchvision", "numpy", "pycocotools"]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(inside), *wanted], check=True)
    return inside


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", action="append", help="version to install and try, or newest (repeatable)")
    parser.add_argument("--python", default=sys.executable, help="interpreter to try them with")
    parser.add_argument("--uv", default=str(Path(sys.executable).with_name("uv")))
    args = parser.parse_args()
    before = hashlib.sha256(LIBRARY.read_bytes()).hexdigest()
    print(f"{LIBRARY.name}: sha256 {before}")
    found = dict([probe(sys.executable)])
    checked = {version: self_check(sys.executable) for version in found}
    with tempfile.TemporaryDirectory() as folder:
        for version in args.torch or ["2.13.0"]:
            environment = Path(folder, version)
            python = make_environment(args.uv, environment, version, args.python)
            name, digest = probe(python)
            found[name], checked[name] = digest, self_check(python)
            shutil.rmtree(environment)
    for version, digest in found.items():
        print(f"torch {version}: results {digest}; {checked[version]}")
    if len(found) < 2:
        raise SystemExit("only one version was tried")
    if len(set(found.values())) != 1 or hashlib.sha256(LIBRARY.read_bytes()).hexdigest() != before:
        raise SystemExit("the results differ between versions")
    print(f"one library, {len(found)} versions of PyTorch, equal results")


if __name__ == "__main__":
    main()
