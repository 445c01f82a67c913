"""Ops of csrc on the host execution of CUDA: in place of the CPU kernels, inside `with host.ops():`."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from . import build

ORDERS = ("ascending", "descending", "random")


class _Redirect(TorchDispatchMode):
    """Sends the ops of mrcnn_plugin to the library of a host."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mrcnn_plugin":
            return self.host.call(func._schema.name.split("::")[1], *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Cost(NamedTuple):
    """Counts of one kernel over all its launches; engine/trace.cpp says how they are taken."""

    launches: int
    blocks: int
    blocks_run: int  # fewer where costs are sampled
    threads: int  # of a block
    barriers: int
    read_bytes: int  # of global memory, asked for by threads
    written_bytes: int
    read_sectors: int  # of 32 bytes, touched by warp accesses
    written_sectors: int
    block_sectors: int  # each counted once for each block that touches it
    atomics: int
    atomic_sectors: int
    shared_accesses: int  # of warps
    bank_conflicts: int
    dynamic_shared_bytes: int

    def whole(self) -> Cost:
        """Of all blocks, from those that were run."""
        factor = self.blocks / max(self.blocks_run, 1)
        kept = ("launches", "blocks", "threads", "dynamic_shared_bytes")
        return Cost(*(v if name in kept else round(v * factor) for name, v in self._asdict().items()))

    @property
    def sectors(self) -> int:
        return self.read_sectors + self.written_sectors + self.atomic_sectors


class Host:
    """A library that `build.build` made, loaded."""

    def __init__(self, path: Path, namespace: str) -> None:
        torch.ops.load_library(str(path))
        self.path = path
        self._ops = getattr(torch.ops, namespace)
        self._library = ctypes.CDLL(str(path))
        self._library.cuda_host_kernels.restype = ctypes.c_char_p
        self._library.cuda_host_costs.restype = ctypes.c_char_p
        self.configure()

    def configure(
        self,
        order: str = "ascending",
        seed: int = 0,
        *,
        races: bool = True,
        cost: bool = False,
        most_blocks: int = 2**64 - 1,
    ) -> None:
        """The order in which threads and blocks run, and what is checked and counted at each access."""
        self._library.cuda_host_set(
            ORDERS.index(order), ctypes.c_uint64(seed), int(races), int(cost), ctypes.c_uint64(most_blocks)
        )

    def call(self, name: str, *args, **kwargs):
        """Calls an op; an error of a kernel is a RuntimeError."""
        self._library.cuda_host_begin_call()
        return getattr(self._ops, name)(*args, **kwargs)

    def costs(self) -> dict[str, Cost]:
        """What each kernel has cost since the last call, of a library built and configured to count."""
        lines = self._library.cuda_host_costs().decode().splitlines()
        return {name: Cost(*map(int, numbers)) for name, *numbers in (line.split("\t") for line in lines)}

    @contextlib.contextmanager
    def ops(self, order: str = "ascending", seed: int = 0) -> Iterator[None]:
        """Inside, ops of mrcnn_plugin on CPU tensors are executed by the CUDA kernels."""
        self.configure(order, seed)
        with _Redirect(self):
            yield
        self.configure()

    def kernels_run(self) -> list[str]:
        """The kernels that this process has run, with their template arguments."""
        return self._library.cuda_host_kernels().decode().splitlines()


@functools.cache
def host() -> Host:
    """The unchanged sources of csrc."""
    return Host(*build.build())
