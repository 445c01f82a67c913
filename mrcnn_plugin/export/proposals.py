"""Detectron2's RPN as a function of tensors: the proposals of one image.

Axes: L levels, A anchors per position, P proposals.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.ops import nms_mask

from .boxes import clip, is_finite, nonempty


def check_proposal_generator(generator: nn.Module | None) -> None:
    """Refuses what `propose` cannot express.

    Raises:
        ConfigError: another class than Detectron2's RPN, or rotated anchors.
    """
    if not isinstance(generator, RPN) or not isinstance(generator.anchor_generator, DefaultAnchorGenerator):
        parts = [type(generator).__name__]
        if isinstance(generator, RPN):
            parts.append(type(generator.anchor_generator).__name__)
        raise ConfigError(
            f"only an RPN with axis-aligned anchors can be exported, got {' with '.join(parts)}"
        )


def propose(rpn: RPN, features: dict[str, Tensor], height: int, width: int) -> Tensor:
    """The proposals of one image, best first, as Detectron2's RPN gives them in inference.

    Every level contributes `pre_nms_topk` candidates, those that it lacks having a score of -inf, so that all
    shapes up to the result are fixed.

    Args:
        rpn: whose head, anchors and thresholds are used.
        features: maps (1, C, H_l, W_l) by name.
        height, width: of the image in pixels, without padding.

    Returns:
        (P, 4) float32 xyxy in pixels of the network's input; P varies from image to image.
    """
    maps = [features[name] for name in rpn.in_features]
    logits, deltas = rpn.rpn_head(maps)
    topk = rpn.pre_nms_topk[False]
    boxes, scores = [], []
    for anchors, level_logits, level_deltas in zip(_anchors(rpn, maps), logits, deltas):
        level_scores, index = _best(level_logits[0].permute(1, 2, 0).flatten(), topk)
        # (4A, H, W) to (HWA, 4), in the order of the anchors.
        level_deltas = level_deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)
        boxes.append(rpn.box2box_transform.apply_deltas(level_deltas[index], anchors[index]))
        scores.append(level_scores)
    candidates, objectness = torch.stack(boxes), torch.stack(scores)  # (L, topk, 4), (L, topk)
    finite = is_finite(candidates)
    candidates = clip(candidates, height, width)
    objectness = torch.where(finite & nonempty(candidates, rpn.min_box_size), objectness, -torch.inf)
    keep = nms_mask(candidates, objectness, rpn.nms_thresh)
    best, index = (
        torch.where(keep, objectness, -torch.inf)
        .flatten()
        .topk(min(rpn.post_nms_topk[False], topk * len(maps)))
    )
    return candidates.flatten(0, 1)[index[best > -torch.inf]]


def _best(scores: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """The `topk` highest of (K,) scores with their indices; -inf, and the last index, beyond the K-th."""
    best, index = F.pad(scores, (0, topk), value=-torch.inf).topk(topk)
    return best, index.clamp(max=scores.shape[0] - 1)


def _anchors(rpn: RPN, maps: list[Tensor]) -> list[Tensor]:
    """Of each level (H_l W_l A, 4) xyxy."""
    generator = rpn.anchor_generator
    sizes = [(one.shape[-2], one.shape[-1]) for one in maps]
    if type(generator) is not DefaultAnchorGenerator:
        return generator._grid_anchors(sizes)
    # Detectron2's own grid is an arange of floats, whose length cannot be told from a symbolic size.
    anchors = []
    for (rows, columns), stride, cells in zip(sizes, generator.strides, generator.cell_anchors):
        y, x = (
            torch.arange(n, device=cells.device, dtype=torch.float32) * stride + generator.offset * stride
            for n in (rows, columns)
        )
        y, x = y[:, None].expand(rows, columns), x[None].expand(rows, columns)
        shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        anchors.append((shifts + cells).reshape(-1, 4))
    return anchors
