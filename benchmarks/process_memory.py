"""What a process holds in memory, and its peak since a moment, by Linux's /proc (see proc(5)).

Used by the benchmarks, and by the drill of `tests/drills/memory_growth.py`.
"""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

MB = 1024 * 1024


def _status(key: str, process: int | str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def resident(process: int | str = "self") -> int:
    """Bytes that a process, by its id, holds now; 0 where it has ended."""
    try:
        return _status("VmRSS", process)
    except (FileNotFoundError, ProcessLookupError):
        return 0


def settled() -> int:
    """Bytes that this process needs: what it has freed is collected and handed back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def start_peak() -> int:
    """Begins a new peak; the bytes that are held now, which `settled` can make fewer."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


def peak() -> int:
    """Bytes at the peak since `start_peak`."""
    return _status("VmHWM", "self")
