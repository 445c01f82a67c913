"""The CPU library needs nothing of PyTorch but its stable C interface, so one build serves every version."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from check_stable_abi import LIBRARY, probe

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="no compiler here: the library was not built")


def test_only_stable_symbols_of_torch_are_needed():
    listing = subprocess.run(
        ["nm", "-D", "--undefined-only", LIBRARY], capture_output=True, text=True, check=True
    )
    needed = [line.split()[-1] for line in listing.stdout.splitlines()]
    of_torch = [name for name in needed if re.search(r"torch|aoti|c10|at[0-9:]", name)]
    assert of_torch
    mangled = [name for name in of_torch if name.startswith("_Z")]
    assert not mangled, f"C++ symbols of PyTorch, which change between versions: {mangled}"


def test_the_library_alone_runs_without_the_package():
    version, digest = probe(sys.executable)
    assert version
    assert len(digest) == 64
