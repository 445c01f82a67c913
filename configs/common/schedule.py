"""Learning rate schedules, as multipliers of the optimizer's `lr`, over `train.max_iter` iterations."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    MultiStepParamScheduler,
)


def multi_step(max_iter, steps, warmup_iter=1000, warmup_factor=0.001):
    """Linear warm-up over `warmup_iter`, then a tenth of the rate from each of `steps` on (iterations)."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[0.1**i for i in range(len(steps) + 1)], milestones=[*steps, max_iter]
        ),
        warmup_length=warmup_iter / max_iter,
        warmup_method="linear",
        warmup_factor=warmup_factor,
    )


# 1x: 90000 iterations of 16 images are 1.44 M images, 12.3 epochs of COCO's 117266 annotated ones; the rate
# falls after 60000 and 80000.
lr_multiplier_1x = multi_step(90000, steps=(60000, 80000))
# 2x, 3x: twice and three times that; the rate falls 60000 and 20000 iterations before the end, a longer time
# at the first rate being what the longer training is for.
lr_multiplier_2x = multi_step(180000, steps=(120000, 160000))
lr_multiplier_3x = multi_step(270000, steps=(210000, 250000))

# One cycle: from 1/25 of the rate up to it over 30% of the iterations, then down to 1/250000, along cosines.
lr_multiplier_one_cycle = L(CompositeParamScheduler)(
    schedulers=[
        L(CosineParamScheduler)(start_value=1 / 25, end_value=1.0),
        L(CosineParamScheduler)(start_value=1.0, end_value=1 / 250000),
    ],
    lengths=[0.3, 0.7],
    interval_scaling=["rescaled", "rescaled"],
)
