"""The errors that a person at the command line can fix: shown as one line, with exit status 2."""

from __future__ import annotations

import signal


class ConfigError(ValueError):
    """Something given on the command line or in a config file is wrong; the message says how to fix it."""


class DatasetError(ValueError):
    """A data set that cannot be used; its message is one line that names the file and how to fix it."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived, and what was running has been left in good order.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def first_line(error: BaseException) -> str:
    """What an error says, in one line; of an error that came from another process, its own last line."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # PyTorch's loaders and spawned processes hand over a traceback as text.
    return (
        lines[-1].partition(": ")[2] or lines[-1] if "Traceback (most recent call last)" in text else lines[0]
    )
