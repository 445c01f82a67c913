"""Whole models as files that run elsewhere: picture in, detections out.

A project whose RoI heads work in a way of their own registers them with `heads_graph`.
"""

from mrcnn_plugin.runtime import load

from .graph import DetectionGraph
from .heads import (
    CascadeHeads,
    Detections,
    Res5Heads,
    StandardHeads,
    check_mask_head,
    heads_graph,
    mask_probabilities,
)
from .pooling import check_pooler, pool
from .program import trace
from .sizes import ceil_div, computed

__all__ = [
    "CascadeHeads",
    "DetectionGraph",
    "Detections",
    "Res5Heads",
    "StandardHeads",
    "ceil_div",
    "check_mask_head",
    "check_pooler",
    "computed",
    "heads_graph",
    "load",
    "mask_probabilities",
    "pool",
    "trace",
]
