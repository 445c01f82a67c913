"""The folder of a run: kept to one run at a time, and put in order after one that was killed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
from pathlib import Path

from mrcnn_plugin.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK = "run.lock"
# Open files of the locks that this process holds, by the folder's real path: closing one gives its lock up.
_HELD: dict[str, int] = {}
# What `atomic_files.replacing` and `write_atomically` call a file that is being written.
_PART = re.compile(r"\.\d+\..+|.+\.\d+\.part")


def open_folder(folder: str, key: str) -> None:
    """Creates the folder and keeps it to this process until it ends, however it ends.

    The lock is one of the kernel's (fcntl): neither a process that was killed nor a forked data loader worker
    holds it. What such a process left half written is removed.

    Args:
        key: what set the folder, for messages.

    Raises:
        ConfigError: the folder cannot be written, or another process runs in it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _lock(path, key)
        for entry in path.iterdir():
            if entry.is_file() and _PART.fullmatch(entry.name):
                entry.unlink()
    except OSError as error:
        raise ConfigError(
            f"{key}: cannot write in {folder!r} ({error.strerror}); give another folder"
        ) from error


def _lock(folder: Path, key: str) -> None:
    held = os.path.realpath(folder)
    if held in _HELD:
        return
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.read(file, 200).decode(errors="replace").strip() or "another process"
        os.close(file)
        raise ConfigError(f"{key}: {owner} is running in {str(folder)!r}; give another folder") from error
    except OSError as error:
        logger.warning(
            f"{folder} is on a file system without locks ({error.strerror}): run once in it at a time"
        )
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} of {socket.gethostname()}\n".encode())
    _HELD[held] = file


def cut_metrics(folder: str, start: int) -> None:
    """Cuts off metrics.json what was written of iterations that are run again, from `start` on.

    A checkpoint is older than the last lines of a killed run. The cut is one step: the lines are in order.
    """
    path = Path(folder, "metrics.json")
    if not path.is_file():
        return
    kept = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n") or not _is_before(line, start):
                os.truncate(path, kept)
                return
            kept += len(line)


def _is_before(line: bytes, start: int) -> bool:
    try:
        scalars = json.loads(line)
        iteration = scalars["iteration"]
    except (ValueError, KeyError, TypeError):
        return False
    # The evaluation at the end of a run is written under the iteration that would have come next.
    return iteration < start or (iteration == start and "total_loss" not in scalars)
