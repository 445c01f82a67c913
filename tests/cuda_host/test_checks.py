"""Every check of the host execution: what is right passes, each fault is an error that says where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from . import build, runtime, source

KERNELS = Path(__file__).parent / "kernels"
ORDERS = ["ascending", "descending", "random"]


@pytest.fixture(scope="module")
def faults() -> runtime.Host:
    extra = {"faults/cuda/faults.cu": (KERNELS / "faults.cu").read_text()}
    extra["ops.cpp"] = (KERNELS / "ops.cpp").read_text()
    return runtime.Host(*build.build(["faults/cuda/faults.cu"], extra=extra))


def execute(faults, name: str, blocks: int = 1, outputs: int = 256, order: str = "ascending") -> torch.Tensor:
    faults.configure(order, seed=1)
    values, output = torch.arange(64.0 * blocks), torch.zeros(outputs)
    faults.call("run_kernel", name, values, output)
    return output


@pytest.mark.parametrize("order", ORDERS)
def test_primitives(faults, order):
    sums = execute(faults, "block_sum", blocks=3, outputs=3, order=order)
    assert sums.tolist() == torch.arange(192.0).view(3, 64).sum(1).tolist()
    shifted = execute(faults, "warp_shift", outputs=64, order=order).view(2, 32)
    lanes = torch.arange(64.0).view(2, 32)
    before = torch.cat([torch.zeros(2, 1), lanes[:, :-1]], dim=1)
    assert torch.equal(shifted, lanes.roll(-1, dims=1) - before)
    assert execute(faults, "atomic_total", blocks=5, outputs=1, order=order).item() == sum(range(320))
    written = execute(faults, "bytes_of_a_word", outputs=16, order=order)
    assert written.view(torch.uint8).tolist() == list(range(64))


FAULTS = {
    "barrier_of_half_the_threads": r"thread 0: the barrier at .*faults\.cu:\d+ is never reached by thread 32",
    "two_barriers": r"never reached by thread 32, which waits at the one at .*faults\.cu",
    "ballot_without_a_lane": r"waits for lane 5 of its warp, which has returned",
    "shuffle_from_outside_the_mask": r"thread 0: the shuffle at .* reads lane 20, which is not in its mask",
    "lane_outside_its_own_mask": r"its own lane is not in the mask",
    "misaligned_vector": r"thread 3: it reads 16 bytes at an address that is not a multiple of that",
    "misaligned_shared_vector": r"thread 3: it reads 8 bytes at an address that is not a multiple of that",
    "read_past_the_input": r"thread 63: it reads 4 bytes outside all tensors, 0 bytes past .*faults\.cu:\d+",
    "write_before_the_output": r"thread 0: it writes 4 bytes outside all tensors, 4 bytes before the start",
    "write_to_the_input": r"it writes an input tensor",
    "null_pointer": r"it reads 4 bytes outside all tensors",
    "past_a_shared_array": r"thread 63: it writes 4 bytes of .* at offset 256 of values, which has 256",
    "past_dynamic_shared_memory": r"thread 63: .* offset 252 of the dynamic .*, which has 252",
    "shared_memory_never_written": r"thread 7: it reads shared memory that was never written",
    "read_without_a_barrier": r"data race: it (reads memory .* writes|writes memory .* reads)",
    "warps_ordered_by_syncwarp_alone": r"data race",
    "write_after_reads_without_a_barrier": r"data race",
    "atomic_and_plain": r"data race",
    "pointer_to_a_local": r"a pointer to a local variable of another thread",
    "more_threads_than_promised": r"__launch_bounds__ promises at most 32 threads, the launch has 64",
    "too_much_shared_memory": r"at most 49152 bytes of shared memory .* are 49156",
    "too_many_threads": r"any_launch, block 0, thread 0: a launch has 1 to 1024 threads a block, .* 1025",
    "too_much_dynamic_shared_memory": r"this launch asks for 49153",
    "too_many_blocks": r"a launch has 1 to 2147483647 blocks, this one asks for 2147483648",
    "no_blocks": r"a launch has 1 to 2147483647 blocks, this one asks for 0",
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_errors_that_name_the_place(faults, name, order):
    kernel = name if name not in ("too_many_threads", "too_many_blocks", "no_blocks") else "any_launch"
    kernel = "any_launch" if name == "too_much_dynamic_shared_memory" else kernel
    with pytest.raises(RuntimeError, match=rf"CUDA on the host: {kernel}, block 0, thread \d+: ") as error:
        execute(faults, name, outputs=64, order=order)
    if order == "ascending":  # in another order another thread may be the first to find it
        error.match(FAULTS[name])
    # The next launch starts afresh.
    assert execute(faults, "block_sum", outputs=1).item() == sum(range(64))


@pytest.mark.parametrize("name", ["two_blocks_one_word", "shared_memory_of_the_block_before"])
def test_faults_between_blocks(faults, name):
    what = "data race" if name == "two_blocks_one_word" else "never written"
    with pytest.raises(RuntimeError, match=f"{name}, block 1, thread 0: .*{what}"):
        execute(faults, name, blocks=2)


def test_source_is_rewritten_line_by_line():
    text = (KERNELS / "faults.cu").read_text()
    rewritten = source.for_host(text)
    assert text.count("\n") == rewritten.count("\n")
    assert "<<<" not in rewritten
    assert "__shared__" not in rewritten
    assert rewritten.count("enter_kernel") == len(source.kernels(text)) == text.count("__global__")


def test_a_change_that_does_not_apply_is_an_error():
    with pytest.raises(ValueError, match="must hold exactly once"):
        build.build(changes={"masks/rle.h": ("no such text", "")})
