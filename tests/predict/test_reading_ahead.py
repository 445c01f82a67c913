"""Batches read ahead of their user, in order and no further than told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mrcnn_plugin.predict.reading_ahead import Behind, ahead


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_order_and_depth(depth):
    taken = []

    def batches():
        for start in range(0, 8, 2):
            taken.append(start)
            yield [start, start + 1]

    with ThreadPoolExecutor(3) as pool:
        got = []
        for batch, results in ahead(lambda item: item * item, batches(), pool, depth=depth):
            got.append((batch, results))
            assert len(taken) == min(len(got) + depth - 1, 4)
    assert got == [([s, s + 1], [s * s, (s + 1) ** 2]) for s in range(0, 8, 2)]


def test_errors_reach_the_user():
    def fail(item):
        raise RuntimeError(f"item {item}")

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(RuntimeError, match="item 1"):
            next(ahead(fail, [[1], [2]], pool, depth=2))
        behind = Behind(pool)
        behind.submit(fail, 3)
        with pytest.raises(RuntimeError, match="item 3"):
            behind.wait()
        behind.wait()
