"""Runs that a resume does not change: their random numbers and their images follow from the iteration alone.

Detectron2 starts its samplers and generators anew when a run is resumed, so that it sees the images in
another order than one that was never broken. Here each iteration draws from generators seeded by (seed of
the run, process, iteration), each image is augmented from generators seeded by (seed, process, place in the
order), and a resumed run takes up the order where the checkpoint left it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data.common import AspectRatioGroupedDataset, ToIterableDataset
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from mrcnn_plugin.data.images import skip_unreadable

logger = logging.getLogger(__name__)


class RunSeed:
    """The number from which all randomness of a run follows; a checkpoint keeps it."""

    def __init__(self) -> None:
        # The same on every process; train.seed determines it where there is one.
        self.value = comm.shared_random_seed()

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["seed"]

    def derived(self, *numbers: int) -> int:
        """A seed for one use, 32 bits, from the run's and what tells the uses apart."""
        return int(np.random.SeedSequence([self.value, *numbers]).generate_state(1)[0])


_STEP, _IMAGE = 0, 1


def _seed_all(seed: int) -> None:
    random.seed(seed)
    # The transforms of Detectron2 draw from NumPy's global generator.
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)


class SeedEachStep(HookBase):
    """Seeds Python's, NumPy's and PyTorch's generators before each iteration."""

    def __init__(self, seed: RunSeed) -> None:
        self._seed = seed

    def before_step(self) -> None:
        seed = self._seed.derived(_STEP, comm.get_rank(), self.trainer.iter)
        _seed_all(seed)
        torch.cuda.manual_seed(seed)


class Batches:
    """An iterable whose source is set before its first batch: Detectron2's trainer asks for one earlier."""

    def __init__(self) -> None:
        self.source: Iterable[list[dict]] = ()

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator: nothing of it runs before the first batch. What the loader draws, as when its first
        # batch starts it, is not drawn from the step's generators.
        with _set_aside():
            batches = iter(self.source)
        while True:
            with _set_aside():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextlib.contextmanager
def _set_aside() -> Iterator[None]:
    """Leaves the generators of Python, NumPy and PyTorch's CPU as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


def continue_at(loader: Iterable[list[dict]], seed: RunSeed, start: int) -> None:
    """Makes a training loader that Detectron2 built give the batches from iteration `start` on.

    In place, before anything was read from it; images that cannot be read are left out by name. A loader of
    another form is left as it is: a resumed run then sees images in a new order, which the log says.
    """
    inner = loader.dataset if isinstance(loader, AspectRatioGroupedDataset) else loader
    items = inner.dataset if isinstance(inner, DataLoader) else None
    grouped = isinstance(loader, AspectRatioGroupedDataset)
    # Without groups each worker makes batches of its own share of the order.
    if not isinstance(items, ToIterableDataset) or not (grouped or inner.num_workers <= 1):
        if start:
            logger.warning(
                "Resumed with a data loader whose order cannot be taken up: images come in a new order"
            )
        return
    batch_size = loader.batch_size if grouped else inner.batch_size
    if hasattr(items, "shard_chunk_size"):
        # Detectron2's main branch gives workers runs of images; one by one, the order is that of the sampler.
        items.shard_chunk_size = 1
    order = _Order(items.sampler, len(items.dataset))
    if start:
        sides = _Sides(items.dataset) if grouped else None
        order.skip(start, batch_size, sides)
    skip_unreadable(items.dataset)
    items.sampler = order
    items.dataset = _SeededDataset(items.dataset, seed)


class _Order(Sampler):
    """A sampler's indices with their places: place * length + index, from a given batch on."""

    def __init__(self, sampler: Iterable[int], length: int) -> None:
        self._sampler = sampler
        self._length = length
        self._pending: list[int] = []
        self._consumed = 0

    def _codes(self) -> Iterator[int]:
        return (place * self._length + int(index) for place, index in enumerate(self._sampler))

    def skip(self, batches: int, batch_size: int, sides: _Sides | None) -> None:
        """Leaves out what was in so many batches; `sides` tells images that share no batch apart."""
        if sides is None:
            self._consumed = batches * batch_size
            return
        buckets: tuple[list[int], list[int]] = ([], [])
        done = 0
        for code in self._codes():
            if done == batches:
                break
            self._consumed += 1
            bucket = buckets[sides.is_upright(code % self._length)]
            bucket.append(code)
            if len(bucket) == batch_size:
                bucket.clear()
                done += 1
        # Read already, but not yet in a batch.
        self._pending = sorted(buckets[0] + buckets[1])

    def __iter__(self) -> Iterator[int]:
        yield from self._pending
        yield from itertools.islice(self._codes(), self._consumed, None)


class _Sides:
    """Which images of a data set are upright, as Detectron2 groups them; each is looked at once."""

    def __init__(self, dataset: Any) -> None:
        # Below Detectron2's MapDataset, which would decode the image.
        self._dicts = getattr(dataset, "_dataset", dataset)
        self._known: dict[int, bool] = {}

    def is_upright(self, index: int) -> bool:
        if index not in self._known:
            image = self._dicts[index]
            self._known[index] = not image["width"] > image["height"]
        return self._known[index]


class _SeededDataset(Dataset):
    """A mapped data set whose mapper draws the same numbers for the same place in the order."""

    def __init__(self, dataset: Any, seed: RunSeed) -> None:
        self._dataset = dataset
        self._seed = seed
        self._rank = comm.get_rank()

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, code: int) -> dict:
        place, index = divmod(code, len(self._dataset))
        _seed_all(self._seed.derived(_IMAGE, self._rank, place))
        return self._dataset[index]
