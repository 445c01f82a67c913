"""Files that no reader ever sees half written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[str]:
    """A temporary path beside `path` to write to; afterwards it takes the place of `path` in one step.

    So a reader, or a run that is killed while writing, never sees half a file. It ends as `path` does, since
    some writers tell the format by that.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{os.getpid()}.{name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        if os.path.exists(part):
            os.remove(part)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside path and rename, so that no reader and no interruption meets half a file."""
    # Not `replacing`'s name: the drawn data knows what a killed run left of its own by the ending .part.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)
