"""Where tests of CUDA kernels run: executed on the host, always, and on a CUDA device, where there is one."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pytest
import torch
from cuda_host import runtime


@dataclass(frozen=True)
class Backend:
    name: str
    device: str

    def ops(self, order: str = "ascending", seed: int = 0) -> AbstractContextManager[None]:
        """Inside, ops on tensors of `device` run the CUDA kernels; on the host in that order of threads."""
        if self.name == "host":
            return runtime.host().ops(order, seed)
        return contextlib.nullcontext()


@pytest.fixture(
    params=[Backend("host", "cpu"), pytest.param(Backend("cuda", "cuda"), marks=pytest.mark.cuda)],
    ids=["host", "cuda"],
)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param


@pytest.fixture(params=[("ascending", 0), ("descending", 0), ("random", 1), ("random", 2)], ids=str)
def schedule(request: pytest.FixtureRequest) -> tuple[str, int]:
    """An order of threads and blocks, and its seed."""
    return request.param


@contextlib.contextmanager
def deterministic(value: bool):
    """torch.use_deterministic_algorithms(value), without filling new memory."""
    before = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(value)
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill
