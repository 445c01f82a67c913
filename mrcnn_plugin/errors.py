"""The errors that a person at the command line can fix: shown as one line, with exit status 2."""

from __future__ import annotations

import errno
import os
import signal

#: The environment variable that, set to 1, lets the programs show the traceback behind a one-line error.
TRACEBACK = "MRCNN_PLUGIN_TRACEBACK"


# Characters of a message, which may quote names that a damaged file states: of its beginning and of its end.
_BEGINNING, _END = 2500, 1500


class _Told(ValueError):
    """A message that a person reads, whatever size the names in it have."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(_readable(value) if isinstance(value, str) else value for value in args))


def _readable(message: str) -> str:
    """Without its middle where it is longer than anyone reads: file and way out stand at its ends."""
    cut = len(message) > _BEGINNING + _END + len(" ... ")
    return f"{message[:_BEGINNING]} ... {message[-_END:]}" if cut else message


class ConfigError(_Told):
    """Something given on the command line or in a config file is wrong; the message says how to fix it.

    Attributes:
        of_one_process: whether only the process that raises it knows of it, and not all of them.
    """

    of_one_process = False


class DatasetError(_Told):
    """A data set that cannot be used; its message is one line that names the file and how to fix it.

    Attributes:
        of_one_process: as of a `ConfigError`.
    """

    of_one_process = False


class ImageError(_Told):
    """An image file that cannot be read; its message is one line that says why, without the file's name."""


class DivergedError(ArithmeticError):
    """A loss became infinite or NaN; the message, of a few lines, says what was seen and where to go on.

    Attributes:
        of_one_process: whether only the process that raises it knows of it, and not all of them.
    """

    def __init__(self, message: str, *, of_one_process: bool = False) -> None:
        super().__init__(message)
        self.of_one_process = of_one_process


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived, and what was running has been left in good order.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


# Characters of what an error of a library says.
_LONGEST_LINE = 500


def first_line(error: BaseException) -> str:
    """What an error says, in one line; of an error that came from another process, its own last line."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # PyTorch's loaders and spawned processes hand over a traceback as text.
    line = (
        lines[-1].partition(": ")[2] or lines[-1] if "Traceback (most recent call last)" in text else lines[0]
    )
    # Libraries quote what they were given, whatever its size.
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]} ..."


_STORAGE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
}


def storage_problem(error: BaseException | None) -> str | None:
    """One line for a file that the system does not let be written or read; None for any other error.

    Where one error came of another, as on closing a file that could not be written, both are looked at.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _STORAGE:
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{os.strerror(error.errno)}"
        error = error.__cause__ or error.__context__
    return None
