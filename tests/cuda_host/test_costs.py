"""Costs of kernels that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from . import build, runtime

KERNELS = Path(__file__).parent / "kernels"


@pytest.fixture(scope="module")
def host() -> runtime.Host:
    extra = {"costs/cuda/costs.cu": (KERNELS / "costs.cu").read_text()}
    extra["ops.cpp"] = (KERNELS / "ops.cpp").read_text()
    return runtime.Host(*build.build(["costs/cuda/costs.cu"], extra=extra, cost=True))


def cost(host: runtime.Host, name: str) -> runtime.Cost:
    host.configure(races=False, cost=True)
    host.costs()
    host.call("run_kernel", name, torch.zeros(256), torch.zeros(128))
    return host.costs()[name]


@pytest.mark.parametrize(
    ("name", "read", "written", "asked"),
    [
        ("neighbours", 4, 4, (128, 128)),
        ("strided", 32, 4, (128, 128)),
        ("broadcast", 1, 4, (128, 128)),
        ("vectors", 16, 16, (512, 512)),
        ("branches", 4, 4, (128, 128)),
    ],
)
def test_sectors(host, name, read, written, asked):
    found = cost(host, name)
    assert (found.read_sectors, found.written_sectors) == (read, written)
    assert (found.read_bytes, found.written_bytes) == asked
    assert (found.launches, found.blocks, found.threads, found.barriers) == (1, 1, 32, 0)
    assert found.block_sectors == read + written
    assert found.shared_accesses == found.bank_conflicts == found.atomics == 0


def test_atomics(host):
    found = cost(host, "atomics")
    assert (found.atomics, found.atomic_sectors, found.sectors) == (32, 1, 1)


def test_bank_conflicts(host):
    found = cost(host, "banks")
    assert found.barriers == 2
    assert found.shared_accesses == 4
    assert found.bank_conflicts == 0 + 1 + 31 + 31


def test_lanes_that_leave_a_loop_early_wait_for_the_others(host):
    found = cost(host, "uneven_loops")
    inner = 2 * 31  # one sector for each round that any lane still makes
    assert found.read_sectors == 2 * 4 + inner


def test_sampled_costs_are_scaled_to_all_blocks():
    one = runtime.Cost(1, 100, 10, 32, *range(1, 12))
    whole = one.whole()
    assert (whole.launches, whole.blocks, whole.threads) == (1, 100, 32)
    assert (whole.barriers, whole.bank_conflicts, whole.dynamic_shared_bytes) == (10, 100, 11)
