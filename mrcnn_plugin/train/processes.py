"""Starts a run in one process or several: spawned here, or already started by torchrun."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import detectron2.engine
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from mrcnn_plugin.compat.comm import create_local_process_group
from mrcnn_plugin.errors import (
    TRACEBACK,
    ConfigError,
    DatasetError,
    DivergedError,
    Interrupted,
    first_line,
    storage_problem,
)
from mrcnn_plugin.ops.library import check_libraries

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def under_torchrun() -> bool:
    """Whether torchrun, or anything that sets its variables, started this process."""
    return all(name in os.environ for name in _TORCHRUN)


def launch(
    main: Callable[..., Any],
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: tuple = (),
) -> Any:
    """Runs `main(*args)` in every process of the run, with Detectron2's `comm` ready for use.

    Under torchrun this process is one of them, and the other arguments are ignored. Else
    `detectron2.engine.launch` spawns them where there is a GPU for each; without any GPU they are spawned
    here and talk through gloo.

    Args:
        num_processes: on this machine; one per GPU.
        dist_url: where the processes meet; "auto" takes a free local port (one machine only).

    Returns:
        What `main` returns, where this process itself ran it; else None.

    Raises:
        ConfigError: more processes than GPUs, or "auto" with several machines.
    """
    if under_torchrun():
        return _run_under_torchrun(main, args)
    if num_processes < 1 or num_machines < 1:
        raise ConfigError(
            f"--num-gpus and --num-machines must be at least 1, got {num_processes} and {num_machines}"
        )
    if num_processes * num_machines == 1:
        return main(*args)
    if num_machines > 1 and dist_url == "auto":
        raise ConfigError("--dist-url is needed with --num-machines > 1: tcp://HOST:PORT of machine 0")
    with _forwarded_signals():
        if torch.cuda.is_available():
            gpus = torch.cuda.device_count()
            if num_processes > gpus:
                raise ConfigError(
                    f"--num-gpus must be at most the {gpus} GPUs of this machine, got {num_processes}"
                )
            detectron2.engine.launch(main, num_processes, num_machines, machine_rank, dist_url, args)
        else:
            if dist_url == "auto":
                dist_url = f"tcp://127.0.0.1:{_free_port()}"
            worker_args = (main, num_processes, num_machines, machine_rank, dist_url, args)
            mp.spawn(_cpu_worker, nprocs=num_processes, args=worker_args)
    return None


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _cpu_worker(
    local_rank: int,
    main: Callable[..., Any],
    num_processes: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
) -> None:
    dist.init_process_group(
        "gloo",
        init_method=dist_url,
        rank=machine_rank * num_processes + local_rank,
        world_size=num_machines * num_processes,
    )
    create_local_process_group(num_processes)
    comm.synchronize()
    main(*args)
    dist.destroy_process_group()


def _run_under_torchrun(main: Callable[..., Any], args: tuple) -> Any:
    if int(os.environ["WORLD_SIZE"]) == 1:
        return main(*args)
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < local_size:
        raise ConfigError(
            f"torchrun started {local_size} processes on a machine of {gpus} GPUs; start {gpus}"
        )
    if gpus:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if gpus else "gloo")
    create_local_process_group(local_size)
    comm.synchronize()
    result = main(*args)
    dist.destroy_process_group()
    return result


@contextlib.contextmanager
def _forwarded_signals() -> Iterator[None]:
    """Hands SIGINT and SIGTERM on to the spawned processes, and keeps waiting for them.

    A terminal may have sent them the same signal too: they take the two for one.
    """
    received = []

    def forward(signum: int, frame: object) -> None:
        received.append(signum)
        for process in mp.active_children():
            if process.pid is not None:
                os.kill(process.pid, signum)

    former = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except (mp.ProcessExitedException, mp.ProcessRaisedException):
        if not received:
            raise
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
    if received:
        raise Interrupted(received[0])


def run(main: Callable[..., Any], *launch_args: Any) -> int:
    """`launch`, with an exit status in place of errors that a person can fix.

    Returns:
        0, or what `main` returned; 2 after a ConfigError or DatasetError, or where the system does not let a
        file be written, each printed as one line; 1 after a DivergedError, printed in a few; 128 + signal
        after SIGINT or SIGTERM.
    """
    try:
        check_libraries()
        return launch(main, *launch_args) or 0
    except (ConfigError, DatasetError) as error:
        if os.environ.get(TRACEBACK) == "1":
            raise
        _print_error(_own_text(error), everywhere=error.of_one_process)
        return 2
    except OSError as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        _print_error(problem)
        return 2
    except mp.ProcessExitedException as error:
        _print_error(f"a process of this run has ended: {first_line(error)}; --resume continues it")
        return 1
    except DivergedError as error:
        _print_error(str(error), everywhere=error.of_one_process)
        return 1
    except mp.ProcessRaisedException as error:
        # A spawned process hands over its traceback only as text.
        diverged = re.search(r"^[\w.]*\bDivergedError: (.*)", str(error), re.MULTILINE | re.DOTALL)
        if diverged:
            _print_error(diverged[1].strip())
            return 1
        known = re.findall(r"^[\w.]*\b(?:ConfigError|DatasetError): (.*)", str(error), re.MULTILINE)
        if not known:
            raise
        _print_error(known[-1])
        return 2
    except Interrupted as stop:
        return 128 + stop.signum
    except KeyboardInterrupt:
        _print_error("interrupted")
        return 128 + signal.SIGINT


def _own_text(error: Exception) -> str:
    """The one line of an error, without the traceback of a data loader's process that raised it."""
    return first_line(error) if "\n" in str(error) else str(error)


def _print_error(text: str, *, everywhere: bool = False) -> None:
    if everywhere or int(os.environ.get("RANK", 0)) == 0:
        print(f"error: {text}", file=sys.stderr, flush=True)
