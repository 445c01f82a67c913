"""What the benchmarks and drills read of a process's memory."""

import os
import subprocess
import sys

import numpy as np
import process_memory


def test_what_is_held_and_its_peak():
    before = process_memory.settled()
    held = process_memory.start_peak()
    assert abs(held - before) < 8 * process_memory.MB
    block = np.ones(64 * process_memory.MB, np.uint8)
    assert process_memory.resident() - before > 56 * process_memory.MB
    del block
    assert process_memory.settled() - before < 8 * process_memory.MB
    assert process_memory.peak() - before > 56 * process_memory.MB


def test_another_process_and_one_that_has_ended():
    assert abs(process_memory.resident(os.getpid()) - process_memory.resident()) < 8 * process_memory.MB
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    assert process_memory.resident(ended.pid) == 0
