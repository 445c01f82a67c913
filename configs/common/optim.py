"""Optimizers. `params.model` is set by the training program; `clip_norm` bounds the norm of all gradients."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params
from mrcnn_plugin.config.optimizer import build_optimizer

# The paper's and Detectron2's: 0.02 for 16 images, scaled with the batch.
SGD = L(build_optimizer)(
    optimizer="torch.optim.SGD",
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    clip_norm=None,
    lr=0.02,
    momentum=0.9,
    weight_decay=1e-4,
    # All parameters in one kernel, on the CPU too.
    fused=True,
)

AdamW = L(build_optimizer)(
    optimizer="torch.optim.AdamW",
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    clip_norm=None,
    lr=1e-4,
    betas=(0.9, 0.999),
    fused=True,
    weight_decay=0.1,
)
