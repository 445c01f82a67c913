"""Attempts with many seeds of one kind of hostile input: how they end, and the seeds of those that fail.

python -m hostile.attempts KIND FIRST LAST prints the counts as JSON; the exit status is 1 where any fails.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Before Detectron2: it applies what that needs on a current stack.
import mrcnn_plugin  # noqa: F401

# isort: split

from detectron2.data import DatasetCatalog
from hostile.kinds import KINDS, forget_sets

from mrcnn_plugin.errors import ConfigError, DatasetError, ImageError, first_line

# Far more than any of these inputs takes, on a busy machine.
_SECONDS = 60
# Characters of a line; a file's name may have thousands.
_LONGEST = 20_000
# So much more than the process has: what asks for more than this is refused by the system, not granted.
_BYTES = 6 << 30


class Hang(BaseException):
    """Passes every `except Exception`."""


@dataclass
class Outcomes:
    """How many inputs were taken, how many told in one line, and what else happened, by seed."""

    taken: int = 0
    told: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    messages: Counter = field(default_factory=Counter)


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """An end to time and memory."""

    def hang(signum: int, frame: object) -> None:
        raise Hang

    former = signal.signal(signal.SIGALRM, hang)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + _BYTES, limits[1]))
    signal.alarm(_SECONDS)
    # Python's handler waits for a call into a library; this one does not.
    faulthandler.dump_traceback_later(3 * _SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def run(kind: str, seeds: Iterable[int], folder: Path) -> Outcomes:
    """Makes the attempts; `folder` is theirs."""
    attempt = KINDS[kind](folder)
    outcomes = Outcomes()
    known = set(DatasetCatalog.list())
    for seed in seeds:
        try:
            with _bounded(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                attempt(seed)
            outcomes.taken += 1
        except (ConfigError, DatasetError, ImageError) as error:
            # A data loader's process hands its traceback over; the programs print the last line.
            text = first_line(error) if "Traceback" in str(error) else str(error)
            if "\n" in text or not text or len(text) > _LONGEST:
                outcomes.failed[seed] = f"not one line: {text[:2000]}"
            outcomes.told += 1
            outcomes.messages[text[:200]] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            outcomes.failed[seed] = "".join(traceback.format_exception(error)[-4:])[-1500:]
        forget_sets(known)
    return outcomes


def main(kind: str, first: int, last: int) -> int:
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MRCNN_PLUGIN_CACHE"] = str(Path(folder, "cache"))
        outcomes = run(kind, range(first, last), Path(folder))
    for seed, text in outcomes.failed.items():
        print(f"{kind} {seed}: {text}", file=sys.stderr)
    counts = {"seeds": last - first, "taken": outcomes.taken, "told": outcomes.told}
    print(json.dumps({"kind": kind, **counts, "failed": len(outcomes.failed)}))
    return bool(outcomes.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
