"""A train loader continued at any batch gives what the unbroken one would have given."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler

from mrcnn_plugin.data import ResumableLoader, seed_generators
from mrcnn_plugin.data.resumable_loader import _one_ahead, _Places, _Shards, grouped_places


class Mapper:
    """Adds what each generator draws for a sample."""

    def __call__(self, record):
        drawn = (np.random.rand(), torch.rand(()).item())
        return {**record, "drawn": drawn, "file_name": f"{record['image_id']}.jpg"}


def records(count=7):
    return [{"image_id": i, "width": 10 + 10 * (i % 3 == 0), "height": 15} for i in range(count)]


def loader(grouped, workers, seed=3):
    return ResumableLoader(
        build_detection_train_loader(
            records(),
            mapper=Mapper(),
            sampler=TrainingSampler(7, seed=5),
            total_batch_size=2,
            aspect_ratio_grouping=grouped,
            num_workers=workers,
        ),
        seed,
    )


def batches(loader, count):
    return list(itertools.islice(loader, count))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("workers", [0, 3])
def test_continued_is_unbroken(grouped, workers):
    unbroken = batches(loader(grouped, workers), 12)
    drawn = [sample["drawn"] for batch in unbroken for sample in batch]
    assert len({*drawn}) == len(drawn), "each sample has numbers of its own"
    for done in (1, 5, 7) if workers == 0 else (5,):
        resumed = loader(grouped, workers)
        resumed.batches = done
        assert batches(resumed, 12 - done) == unbroken[done:]
        assert resumed.batches == 12
        assert resumed.last_files == [sample["file_name"] for sample in unbroken[-1]]


def test_a_batch_is_taken_while_the_one_before_it_is_used():
    taken = [threading.Event() for _ in range(3)]

    def source():
        for number, event in enumerate(taken):
            event.set()
            yield [{"number": number}]
        raise OSError("a worker ended")

    stream = _one_ahead(source())
    assert next(stream) == [{"number": 0}]
    assert taken[1].wait(10)
    assert not taken[2].wait(0.05)
    assert [next(stream)[0]["number"] for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="a worker ended"):
        next(stream)


def test_grouped_batches_do_not_depend_on_the_number_of_workers():
    assert batches(loader(True, 0), 6) == batches(loader(True, 2), 6)


def test_generators_of_the_training_step_are_left_alone():
    stream = iter(loader(False, 0))
    seed_generators(1)
    expected = np.random.rand(), torch.rand(()).item()
    seed_generators(1)
    next(stream)
    assert (np.random.rand(), torch.rand(()).item()) == expected


def test_seeds_differ_in_what_is_drawn_alone():
    first, second = (batches(loader(False, 0, seed), 3) for seed in (1, 2))
    assert [[s["image_id"] for s in batch] for batch in first] == [
        [s["image_id"] for s in batch] for batch in second
    ]
    assert first[0][0]["drawn"] != second[0][0]["drawn"]


@pytest.mark.parametrize(
    ("workers", "chunk", "size"), [(1, 1, 2), (3, 1, 2), (3, 2, 2), (4, 4, 4), (3, 4, 1)]
)
@pytest.mark.parametrize("taken", [0, 1, 3, 7, 12])
def test_shards_against_a_simulation_of_workers(workers, chunk, size, taken):
    """Workers that read Detectron2's shards of a sequence, asked in turn for `size` samples each."""

    def run(sequence, items):
        numbers = list(itertools.islice(sequence, 400))
        chunks = [numbers[i : i + chunk] for i in range(0, len(numbers), chunk)]
        shares = [iter(itertools.chain(*chunks[w::workers])) for w in range(workers)]
        return [list(itertools.islice(shares[i % workers], size)) for i in range(items)]

    unbroken = run(itertools.count(), taken + 9)
    assert run(_Shards(workers, chunk).places(taken, size), 9) == unbroken[taken:]
    if size == 1:
        order = itertools.islice(_Shards(workers, chunk).order(), taken + 9)
        assert list(order) == [place for (place,) in unbroken]


def test_places_forgets_what_is_before_them():
    sampler = (10 * i for i in itertools.count())
    places = _Places(sampler, [5, 4, 7, 6])
    assert list(places) == [(5, 50), (4, 40), (7, 70), (6, 60)]
    assert list(_Places([1, 2], itertools.count())) == [(0, 1), (1, 2)]


def test_places_of_images_grouped_by_aspect_ratio():
    # w h w | w h -> batches of two wide ones (0, 2) and two high ones (1, 4); place 3 waits.
    shapes = [(place, 100 + place, wide) for place, wide in enumerate([True, False, True, True, False])]
    assert grouped_places(shapes, 0, 2) == (0, ([], []))
    assert grouped_places(shapes, 1, 2) == (3, ([], [(1, 101)]))
    assert grouped_places(shapes, 2, 2) == (5, ([(3, 103)], []))
    with pytest.raises(ValueError, match="the sampler ended"):
        grouped_places(shapes, 3, 2)


def test_another_loader_starts_anew_and_says_so(caplog):
    resumed = ResumableLoader([[{"file_name": "a"}], [{"file_name": "b"}]], 0)
    resumed.batches = 1
    assert batches(resumed, 2) == [[{"file_name": "a"}], [{"file_name": "b"}]]
    assert "starts at its beginning" in caplog.text
