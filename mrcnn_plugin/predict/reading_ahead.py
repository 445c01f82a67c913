"""Work done ahead of the network, and behind it, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], batches: Iterable[list[Item]], pool: Executor, *, depth: int
) -> Iterator[tuple[list[Item], list[Result]]]:
    """Applies a function to the items of batches in `pool`, while the caller is busy with an earlier batch.

    Args:
        depth: how many batches are taken before the caller gets the first; 1 reads nothing ahead.

    Yields:
        Each batch with its results, in order.
    """
    waiting: deque[tuple[list[Item], list[Future[Result]]]] = deque()

    def first() -> tuple[list[Item], list[Result]]:
        batch, futures = waiting.popleft()
        return batch, [future.result() for future in futures]

    try:
        for batch in batches:
            waiting.append((batch, [pool.submit(function, item) for item in batch]))
            if len(waiting) >= depth:
                yield first()
        while waiting:
            yield first()
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()


class Behind:
    """Runs calls in a pool; those of one batch at a time, so that what they hold in memory stays bounded."""

    def __init__(self, pool: Executor) -> None:
        self._pool = pool
        self._futures: list[Future] = []

    def submit(self, function: Callable, *args: object) -> None:
        self._futures.append(self._pool.submit(function, *args))

    def wait(self) -> None:
        """Until all calls have ended; raises what one of them raised."""
        futures, self._futures = self._futures, []
        for future in futures:
            future.result()
