"""The errors that a person at the command line can fix: shown as one line, with exit status 2."""

from __future__ import annotations

import signal


class ConfigError(ValueError):
    """Something given on the command line or in a config file is wrong; the message says how to fix it."""


class DatasetError(ValueError):
    """A data set that cannot be used; its message is one line that names the file and how to fix it."""


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
