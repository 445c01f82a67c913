"""A slice of `make sanitize`, which has ten minutes for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler")
def test_no_bytes_make_an_op_fail():
    seconds, seed = (os.environ.get(f"MRCNN_PLUGIN_FUZZ_{name}") for name in ("SECONDS", "SEED"))
    command = [sys.executable, RUN, "fuzz", "--seconds", seconds or "20", "--seed", seed or "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]
    print(done.stdout)
    print(done.stderr[-3000:])
