"""Hooks of the train loop: seeds, a bar on a terminal, and a checkpoint on Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mrcnn_plugin.data import seed_generators
from mrcnn_plugin.errors import Interrupted

logger = logging.getLogger(__name__)

#: Seconds in which a second signal counts as the same one: a launcher and a terminal may both deliver it.
_SAME_SIGNAL_SECONDS = 1.0
# The file descriptor of standard error.
_STDERR = 2


def _say(text: str) -> None:
    """A line from within a signal handler, where Python's buffered streams must not be entered again."""
    os.write(_STDERR, f"\n{text}\n".encode())


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request to stop; the second ends the process at once.

    As a context manager it installs the handlers, where it is entered in the main thread, and puts the
    former ones back.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self._time = 0.0
        self._at_once = False
        self._former: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> StopSignals:
        # Data loader workers are forked after this: they inherit handlers that leave them alive.
        if threading.current_thread() is threading.main_thread():
            self._former = {signum: signal.signal(signum, self._handle) for signum in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: object) -> None:
        if os.getpid() != self._pid:
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        now = time.monotonic()
        if self.received is not None:
            if comm.get_world_size() > 1 and now - self._time < _SAME_SIGNAL_SECONDS:
                return
            _say("stopped at once, without another checkpoint")
            os._exit(128 + signum)
        self.received, self._time = signum, now
        if self._at_once:
            raise Interrupted(signum)
        if comm.is_main_process():
            _say("stopping after this step, with a checkpoint; once more to exit at once")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """A stretch, such as an evaluation, that a signal breaks off instead of waiting for its end.

        With several processes it is waited for: one that left would leave the others in a collective call.
        """
        self._at_once = comm.get_world_size() == 1
        try:
            yield
        finally:
            self._at_once = False

    def agreed(self) -> int | None:
        """The signal that any of the processes has received; all of them must call this together."""
        if comm.get_world_size() == 1:
            return self.received
        return next((signum for signum in comm.all_gather(self.received) if signum), None)


class InterruptCheckpointer(HookBase):
    """After the step in which a stop was requested: saves a checkpoint and raises Interrupted.

    It comes after the hook that steps the learning rate, so that the checkpoint is as a periodic one.
    """

    def __init__(self, checkpointer: Checkpointer, signals: StopSignals) -> None:
        self._checkpointer = checkpointer
        self._signals = signals
        self.saved = False

    def before_train(self) -> None:
        self._raise_if_requested()

    def after_step(self) -> None:
        # After the last step model_final is already there, and little is left to stop.
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self._raise_if_requested(save=True)

    def _raise_if_requested(self, save: bool = False) -> None:
        signum = self._signals.agreed()
        if signum is None:
            return
        if save:
            self.save()
        raise Interrupted(signum)

    def save(self) -> None:
        """Saves the state after the current iteration."""
        self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        self.saved = True


class StepSeed(HookBase):
    """Makes the random numbers of a step a function of the run's seed, the process and the iteration.

    So a resumed run draws what the unbroken one would have drawn, whatever evaluations came between.
    """

    # Distinguishes them from those of the train loader's samples.
    _STEPS = 0

    def __init__(self, seed: int) -> None:
        self._place = (seed, self._STEPS, comm.get_rank())

    def before_step(self) -> None:
        seed_generators(*self._place, self.trainer.iter)


class ProgressBar(HookBase):
    """A tqdm bar with the total loss, for a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._redirect = contextlib.ExitStack()

    def before_train(self) -> None:
        loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "mrcnn_plugin")]
        self._redirect.enter_context(logging_redirect_tqdm(loggers))
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            desc="training",
            unit="it",
            dynamic_ncols=True,
            file=sys.stderr,
        )

    def after_step(self) -> None:
        loss = self.trainer.storage.latest().get("total_loss")
        if self._bar is None:
            raise RuntimeError("before_train starts the bar; it did not run")
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss[0]:.3f}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._redirect.close()
