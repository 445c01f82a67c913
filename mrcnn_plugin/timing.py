"""How many times as fast one way of a computation is as another, measured on the spot."""

from __future__ import annotations

import time
from collections.abc import Callable


def times_as_fast(one: Callable[[], object], other: Callable[[], object], *, rounds: int = 12) -> float:
    """The least time of `one` over the least time of `other`, in turn `rounds` times.

    The least, since other processes can only add to a time.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for is_other, run in ((False, one), (True, other)):
            start = time.perf_counter()
            run()
            times[is_other].append(time.perf_counter() - start)
    return min(times[False]) / min(times[True])
