"""Random numbers that are a function of a run's seed and a place in the run, not of what was drawn before.

So a run that is resumed draws what the unbroken run would have drawn, without any generator's state in the
checkpoint, on every process.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_generators(*place: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators, on every device.

    Args:
        place: non-negative numbers, such as (seed, rank, iteration); each tuple has a seed of its own.
    """
    for_python, for_numpy, for_torch = np.random.SeedSequence(place).generate_state(3).tolist()
    random.seed(for_python)
    np.random.seed(for_numpy)
    torch.manual_seed(for_torch)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Puts the CPU's global generators back into the state in which it found them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
