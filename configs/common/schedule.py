"""Learning rate schedules: each sets `train.max_iter` and returns the `lr_multiplier` that goes with it.

lr_multiplier = use_schedule_3x(train)
"""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)


def use_multi_step(train, *, max_iter, steps, warmup_iter=1000, warmup_factor=0.001):
    """Linear warm-up over `warmup_iter`, then a tenth of the rate from each of `steps` on (iterations)."""
    train.max_iter = max_iter
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**i for i in range(len(steps) + 1)], milestones=[*steps, max_iter]
        ),
        warmup_length=warmup_iter / max_iter,
        warmup_method="linear",
        warmup_factor=warmup_factor,
    )


def use_schedule_1x(train):
    """90000 iterations of 16 images: 1.44 M images, 12.3 epochs of COCO's 117266 annotated ones."""
    return use_multi_step(train, max_iter=90000, steps=(60000, 80000))


def use_schedule_2x(train):
    """Twice 1x, 25 epochs: the rate falls after two thirds and eight ninths, as in 1x."""
    return use_multi_step(train, max_iter=180000, steps=(120000, 160000))


def use_schedule_3x(train):
    """Three times 1x, 37 epochs.

    The rate falls 60000 and 20000 iterations before the end: a longer time at the first rate is what the
    longer training is for.
    """
    return use_multi_step(train, max_iter=270000, steps=(210000, 250000))


def use_cosine(train, *, max_iter, warmup_iter):
    """Linear warm-up over `warmup_iter`, then down to a hundredth of the rate along a cosine."""
    train.max_iter = max_iter
    warmup = warmup_iter / max_iter
    return L(CompositeParamScheduler)(
        schedulers=[
            L(LinearParamScheduler)(start_value=0.01, end_value=1.0),
            L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
        ],
        lengths=[warmup, 1 - warmup],
        interval_scaling=["rescaled", "rescaled"],
    )


def use_one_cycle(train, *, max_iter):
    """From 1/25 of the rate up to it over 30% of the iterations, then down to 1/250000, along cosines."""
    train.max_iter = max_iter
    return L(CompositeParamScheduler)(
        schedulers=[
            L(CosineParamScheduler)(start_value=1 / 25, end_value=1.0),
            L(CosineParamScheduler)(start_value=1.0, end_value=1 / 250000),
        ],
        lengths=[0.3, 0.7],
        interval_scaling=["rescaled", "rescaled"],
    )
