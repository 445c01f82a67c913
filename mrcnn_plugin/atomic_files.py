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

    Raises:
        OSError: what the writer raises, with the name of `path` where it had none.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{os.getpid()}.{name}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        _name(error, path)
        raise
    finally:
        if os.path.exists(part):
            os.remove(part)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes beside path and rename, so that no reader and no interruption meets half a file."""
    # Not `replacing`'s name: the drawn data knows what a killed run left of its own by the ending .part.
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        _name(error, path)
        raise


def _name(error: OSError, path: str | Path) -> None:
    """An error of writing, as on a full disk, names no file by itself."""
    if error.filename is None:
        error.filename = str(path)
