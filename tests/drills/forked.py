"""Runs of the programs in forked processes, which start at once: this process has imported everything."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from mrcnn_plugin.data.synthetic.shapes import SetParameters, ensure_set
from mrcnn_plugin.predict import argument_parser as predict_parser
from mrcnn_plugin.predict import main as predict
from mrcnn_plugin.train import argument_parser, main, run


class Run:
    """A forked process of train_net.py or predict.py.

    Attributes:
        pid: its process id.
        log: the file of its output.
        status: its exit status once `wait` has returned; -N where signal N ended it.
    """

    _started: ClassVar[list[Run]] = []

    def __init__(
        self,
        log: Path,
        arguments: list[str],
        *,
        program: str = "train",
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self.log = log
        log.touch()
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid:
            self._started.append(self)
            return
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = 70
        try:
            prepare()
            if program == "train":
                args, function = argument_parser().parse_intermixed_args(arguments), main
            else:
                args, function = predict_parser().parse_args(arguments), predict
            status = run(function, 1, 1, 0, "auto", (args,))
        except Exception:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    @classmethod
    def end_all(cls) -> None:
        """Kills what still runs, as after a drill that failed."""
        while cls._started:
            cls._started.pop().kill(signal.SIGKILL)

    def wait(self) -> int:
        """Waits for its end; its exit status."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def alive(self) -> bool:
        if self.status is None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self.wait()
        return self.status is None

    def kill(self, signum: int) -> int:
        """Sends it a signal and waits for its end."""
        if self.alive():
            os.kill(self.pid, signum)
        return self.wait()

    def until(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Waits for a condition while it runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.alive() or time.monotonic() > deadline:
                raise AssertionError(f"{self.log} ended, or waited in vain:\n{self.text()[-3000:]}")
            time.sleep(0.02)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def errors(self) -> list[str]:
        """What it says in lines that begin with "error: "."""
        return [line for line in self.text().splitlines() if line.startswith("error: ")]


def shapes(root: Path, images: int = 6) -> dict[str, str]:
    """Names (coco:JSON:IMAGES) of a training and a test set of 64-pixel images, drawn below `root`."""
    names = {}
    for split in ("train", "val"):
        paths = ensure_set(root, "shapes", split, SetParameters("shapes", split, images=images, size=64))
        names[split] = f"coco:{paths.json_file}:{paths.image_root}"
    return names
