"""What stops a training although nothing is wrong with the program, in one line instead of a traceback."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import torch
import torch.distributed as dist
from detectron2.utils import comm

from mrcnn_plugin.config import RunConfig
from mrcnn_plugin.errors import ConfigError, DatasetError, DivergedError, first_line, storage_problem

_CONTINUE = "--resume continues from the last checkpoint"
# Of a worker of a DataLoader: by whoever waits for its batch, or by a signal that comes at any moment.
_WORKER_ENDED = re.compile(r"DataLoader worker .*(exited unexpectedly|is killed by signal)")
_NO_SHARED_MEMORY = re.compile(
    r"insufficient shared memory \(shm\)|out of shared memory|unable to open shared memory object"
)
# Whose classes the errors of torch.compile are; their import takes seconds.
_COMPILER = {"torch._dynamo.exc", "torch._inductor.exc"}
# How gloo and NCCL say that the other end is gone.
_LOST = re.compile(
    r"closed by peer|reset by peer|broken pipe|connection refused|socket closed", re.IGNORECASE
)


@contextlib.contextmanager
def explained(config: RunConfig) -> Iterator[None]:
    """Turns such a failure into a ConfigError that says what to do.

    Detectron2's train loop logs the traceback of every error: here not that of those.
    """
    loop = logging.getLogger("detectron2.engine.train_loop")

    def unexplained(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or not (_is_known(error) or explanation(error, config))

    loop.addFilter(unexplained)
    try:
        yield
    except DatasetError as error:
        # From here on a data set is read by each process on its own.
        error.of_one_process = True
        raise
    except Exception as error:
        text = None if _is_known(error) else explanation(error, config)
        if text is None:
            raise
        told = ConfigError(text)
        told.of_one_process = True
        raise told from error
    finally:
        loop.removeFilter(unexplained)


def _is_known(error: BaseException) -> bool:
    return isinstance(error, ConfigError | DatasetError | DivergedError)


def explanation(error: BaseException, config: RunConfig) -> str | None:
    """One line for an error that a person can do something about; None for any other."""
    text = str(error)
    if isinstance(error, FloatingPointError):
        return (
            f"training has diverged ({first_line(error)}): lower {config.keys.learning_rate}, warm up for "
            f"longer, or clip gradients; {_CONTINUE}, which may have to be an earlier one"
        )
    if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in text:
        return f"out of memory: lower {config.keys.batch_size} or the size of the input ({first_line(error)})"
    if _NO_SHARED_MEMORY.search(text):
        return f"no room in /dev/shm for the batches: enlarge it, or set {config.keys.num_workers}=0"
    if isinstance(error, RuntimeError) and _WORKER_ENDED.search(text):
        return (
            f"a process that loads data has been killed, as by the system when memory runs out; lower "
            f"{config.keys.num_workers} or the size of the input; {_CONTINUE}"
        )
    lost = isinstance(error, dist.DistBackendError) or _LOST.search(text)
    if comm.get_world_size() > 1 and isinstance(error, RuntimeError | OSError) and lost:
        return f"another process of this run has ended ({first_line(error)}); {_CONTINUE}"
    if config.compile and any(cls.__module__ in _COMPILER for cls in type(error).__mro__):
        key = config.keys.spell("train.compile")
        cause = getattr(error, "inner_exception", error)
        return f"the model cannot be compiled ({first_line(cause)}): set {key}=False"
    problem = storage_problem(error)
    return f"{problem}; {_CONTINUE}" if problem else None
