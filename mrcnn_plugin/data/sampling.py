"""Samplers as pieces of a LazyConfig."""

from __future__ import annotations

from detectron2.data.samplers import RepeatFactorTrainingSampler


def repeat_factor_sampler(
    dataset: list[dict], repeat_thresh: float, *, shuffle: bool = True, seed: int | None = None
) -> RepeatFactorTrainingSampler:
    """Repeats images of rare classes (Gupta et al., arXiv 1908.03195, section 5.3).

    A value for `dataloader.train.sampler`.

    Args:
        dataset: the dataset dicts that the loader is built of, in the same order.
        repeat_thresh: share of the images; an image is repeated sqrt(repeat_thresh / f) times, f the share of
            the images that hold its rarest class.
        shuffle, seed: as Detectron2's RepeatFactorTrainingSampler.
    """
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(dataset, repeat_thresh)
    return RepeatFactorTrainingSampler(factors, shuffle=shuffle, seed=seed)
