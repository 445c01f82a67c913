"""A train loader that can begin in the middle: its k-th batch does not depend on where a run was resumed."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from detectron2.data.common import AspectRatioGroupedDataset, ToIterableDataset
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .images import skip_unreadable
from .seeding import kept_generators, seed_generators

logger = logging.getLogger(__name__)

# Distinguishes the random numbers of samples from those of training steps; see `seed_generators`.
_SAMPLES = 1
# More places than workers take at once before the next one's turn: the first of them is among these.
_NEAR = 4096


class ResumableLoader:
    """Endless batches of a train loader, from any of them on.

    Detectron2's train loader maps an endless sequence of indices in worker processes and, where it is asked
    to, groups images by aspect ratio. Here the sequence starts at the place that `batches` batches have
    reached, and the random numbers by which a sample is augmented follow from its place in the sequence. The
    number of workers must stay the same, unless images are grouped by aspect ratio.

    A loader of another kind is handed on as it is, and starts at its beginning.

    Attributes:
        batches: how many have been handed out; set it before the first is taken.
        last_files: the file names of the latest batch.
    """

    def __init__(self, loader: Iterable[list[dict]], seed: int) -> None:
        """
        Args:
            loader: as `detectron2.data.build_detection_train_loader` builds it.
            seed: of the run.
        """
        self.batches = 0
        self.last_files: list[str] = []
        self._loader = loader
        self._seed = seed

    def __iter__(self) -> Iterator[list[dict]]:
        # A generator: nothing happens before the first batch is asked for, when `batches` is known.
        # Workers take their seeds from the main process's generator as they start.
        with kept_generators():
            batches = self._begin()
            first = list(itertools.islice(batches, 1))
        if self._has_workers():
            batches = _one_ahead(batches)
        for batch in itertools.chain(first, batches):
            self.batches += 1
            self.last_files = [str(sample.get("file_name", "")) for sample in batch]
            yield batch

    def _has_workers(self) -> bool:
        outer: Any = self._loader
        loader = outer.dataset if isinstance(outer, AspectRatioGroupedDataset) else outer
        return isinstance(loader, DataLoader) and loader.num_workers > 0

    def _begin(self) -> Iterator[list[dict]]:
        outer: Any = self._loader
        grouped = isinstance(outer, AspectRatioGroupedDataset)
        loader: Any = outer.dataset if grouped else outer
        stream = getattr(loader, "dataset", None)
        if not (
            isinstance(loader, DataLoader) and loader.batch_size and isinstance(stream, ToIterableDataset)
        ):
            if self.batches:
                logger.warning(
                    "The train loader is not one of Detectron2's: it cannot be continued where the run was "
                    "interrupted, and starts at its beginning"
                )
            return iter(outer)
        sampler, mapped = stream.sampler, stream.dataset
        skip_unreadable(mapped)
        stream.dataset = _Seeded(mapped, self._seed)
        # Detectron2's main branch hands out chunks, 0.6 single samples.
        shards = _Shards(max(1, loader.num_workers), getattr(stream, "shard_chunk_size", 1))
        if not grouped:
            stream.sampler = _Places(sampler, shards.places(self.batches, loader.batch_size))
            return iter(loader)
        shapes = _shapes(mapped, _Places(sampler, shards.order()))
        taken, waiting = grouped_places(shapes, self.batches, outer.batch_size)
        stream.sampler = _Places(sampler, shards.places(taken, 1))
        for bucket, items in zip(outer._buckets, waiting):
            bucket[:] = [stream.dataset[item] for item in items]
        return iter(outer)


def _one_ahead(batches: Iterator[list[dict]]) -> Iterator[list[dict]]:
    """Takes each batch from the workers in a thread, while the caller computes on the one before it.

    What workers send has to be unpickled here, which takes as long as a part of a small model's step.
    """
    with ThreadPoolExecutor(1, "batches") as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


class _Seeded(Dataset):
    """Maps (place, index) to the sample of that index, augmented by the random numbers of that place."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset = dataset
        self._place = (seed, _SAMPLES, comm.get_rank())

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, item: tuple[int, int]) -> dict:
        place, index = item
        # Without workers the generators are those of the training step.
        with kept_generators():
            seed_generators(*self._place, place)
            return self._dataset[index]


class _Places(Sampler):
    """(place, index) of a sampler's endless sequence, for places that are nearly in ascending order."""

    def __init__(self, sampler: Iterable[int], places: Iterable[int]) -> None:
        self._sampler = sampler
        self._places = places

    def __iter__(self) -> Iterator[tuple[int, int]]:
        places, sequence = iter(self._places), enumerate(self._sampler)
        found: dict[int, int] = {}
        # Those before the first places are left out, not kept: a long run has passed millions.
        near = list(itertools.islice(places, _NEAR))
        least = min(near, default=0)
        for place in itertools.chain(near, places):
            while place not in found:
                following = next(sequence, None)
                if following is None:
                    return
                number, index = following
                if number >= least:
                    found[number] = index
            yield place, found.pop(place)


@dataclass(frozen=True)
class _Shards:
    """How a loader's workers share a sequence: worker w takes each `workers`-th chunk from the w-th on."""

    workers: int
    chunk: int

    def _place(self, worker: int, number: int) -> int:
        """Place in the sequence of the sample that a worker maps after `number` others."""
        return (worker + self.workers * (number // self.chunk)) * self.chunk + number % self.chunk

    def order(self) -> Iterator[int]:
        """The places in the order in which a loader of single samples returns them: the workers in turn."""
        for number in itertools.count():
            yield self._place(number % self.workers, number // self.workers)

    def places(self, taken: int, size: int) -> Iterator[int]:
        """The sequence to share out where `taken` items have been returned, of `size` samples each.

        A loader that starts anew asks its worker 0 first, whoever's turn it is: so each worker continues what
        another one had begun.
        """
        for number in itertools.count():
            chunk, rest = divmod(number, self.chunk)
            role = (chunk + taken) % self.workers
            before = len(range(role, taken, self.workers)) * size
            yield self._place(role, before + chunk // self.workers * self.chunk + rest)


def grouped_places(
    shapes: Iterable[tuple[int, int, bool]], batches: int, batch_size: int
) -> tuple[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]]:
    """Where a sequence stands after some batches of images grouped by aspect ratio.

    Args:
        shapes: (place, index, whether it is wider than high) of each sample in turn.
        batches: already taken.
        batch_size: samples in each.

    Returns:
        How many samples were taken, and which of them, as (place, index), still wait for a full batch: those
        that are wider than high, and the others.
    """
    waiting: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    if not batches:
        return 0, waiting
    for taken, (place, index, wide) in enumerate(shapes, start=1):
        bucket = waiting[0 if wide else 1]
        bucket.append((place, index))
        if len(bucket) == batch_size:
            bucket.clear()
            batches -= 1
            if not batches:
                return taken, waiting
    raise ValueError("the sampler ended before the run did")


def _shapes(mapped: Any, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, bool]]:
    """Adds whether the image is wider than high, read from the dataset dicts before they are mapped."""
    wide: dict[int, bool] = {}
    for place, index in places:
        if index not in wide:
            record = mapped._dataset[index]
            wide[index] = record["width"] > record["height"]
        yield place, index, wide[index]
