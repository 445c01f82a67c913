"""RoI heads as functions of tensors, for one image: which of their modules run, and on what.

A project whose heads work otherwise registers its own subclass with `heads_graph`, or a function with
`mask_probabilities`. Axes: P proposals, K detections, C channels, M side of a mask.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.modeling import SoftmaxMaskHead
from mrcnn_plugin.ops import heatmaps_to_keypoints, nms_mask

from .boxes import clip, is_finite, nonempty
from .pooling import check_pooler, pool

#: boxes (K, 4), scores (K,), classes (K,) int64.
Detections = tuple[Tensor, Tensor, Tensor]


class StandardHeads:
    """Detectron2's StandardROIHeads, and its subclasses that only differ in training.

    Attributes:
        heads: the module itself.
    """

    def __init__(self, heads: nn.Module) -> None:
        """
        Raises:
            ConfigError: a part of the heads that cannot be exported.
        """
        self.heads: StandardROIHeads = heads
        self.check()

    def check(self) -> None:
        """Refuses parts that cannot be exported."""
        check_pooler(self.heads.box_pooler, "roi_heads.box_pooler")
        self.check_predictors()
        if self.heads.mask_on:
            self.check_masks()
        if self.heads.keypoint_on:
            self.check_keypoints()

    def check_predictors(self) -> None:
        _check_class(self.heads.box_predictor, FastRCNNOutputLayers, "roi_heads.box_predictor")

    def check_masks(self) -> None:
        check_mask_head(self.heads.mask_head, "roi_heads.mask_head")
        check_pooler(self.heads.mask_pooler, "roi_heads.mask_pooler")

    def check_keypoints(self) -> None:
        _check_class(self.heads.keypoint_head, BaseKeypointRCNNHead, "roi_heads.keypoint_head")
        check_pooler(self.heads.keypoint_pooler, "roi_heads.keypoint_pooler")

    def prepare(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps (1, C, H, W) by name, with those that the heads themselves make of them."""
        return features

    def detect(self, features: dict[str, Tensor], proposals: Tensor, height: int, width: int) -> Detections:
        """The detections of one image of height x width pixels, best first, from (P, 4) proposals."""
        predictor = self.heads.box_predictor
        logits, deltas = predictor(self.heads.box_head(self.box_features(features, proposals)))
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        return select(boxes, logits.softmax(dim=1), predictor, height, width)

    def box_features(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """What the box head sees of (K, 4) boxes."""
        return pool(self.heads.box_pooler, [features[name] for name in self.heads.box_in_features], boxes)

    def branches(self, features: dict[str, Tensor], detections: Detections) -> dict[str, Tensor]:
        """Further outputs: `masks` (K, M, M) probabilities, `keypoints` (K, num_keypoints, 3) x, y, score."""
        boxes, _, classes = detections
        outputs = {}
        if self.heads.mask_on:
            outputs["masks"] = self.masks(features, boxes, classes)
        if self.heads.keypoint_on:
            outputs["keypoints"] = self.keypoints(features, boxes)
        return outputs

    def mask_features(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """What the mask head sees of (K, 4) boxes."""
        return pool(self.heads.mask_pooler, [features[name] for name in self.heads.mask_in_features], boxes)

    def masks(self, features: dict[str, Tensor], boxes: Tensor, classes: Tensor) -> Tensor:
        """(K, M, M) probabilities."""
        return mask_probabilities(self.heads.mask_head, self.mask_features(features, boxes), classes)

    def keypoints(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        """(K, num_keypoints, 3): x and y in pixels of the network's input, score."""
        maps = [features[name] for name in self.heads.keypoint_in_features]
        logits = self.heads.keypoint_head.layers(pool(self.heads.keypoint_pooler, maps, boxes))
        x, y, _, score = heatmaps_to_keypoints(logits, boxes).unbind(dim=2)
        return torch.stack([x, y, score], dim=2)


class CascadeHeads(StandardHeads):
    """Detectron2's CascadeROIHeads: stages of boxes, each on what the one before has made."""

    def check_predictors(self) -> None:
        for stage, predictor in enumerate(self.heads.box_predictor):
            _check_class(predictor, FastRCNNOutputLayers, f"roi_heads.box_predictors.{stage}")

    def detect(self, features: dict[str, Tensor], proposals: Tensor, height: int, width: int) -> Detections:
        stages = list(zip(self.heads.box_head, self.heads.box_predictor))
        boxes = proposals
        scores: list[Tensor] = []
        for box_head, predictor in stages:
            proposals = clip(boxes, height, width) if scores else proposals
            logits, deltas = predictor(box_head(self.box_features(features, proposals)))
            scores.append(logits.softmax(dim=1))
            boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        mean = torch.stack(scores).sum(dim=0) * (1.0 / len(stages))
        return select(boxes, mean, stages[-1][1], height, width)


class Res5Heads(StandardHeads):
    """Detectron2's Res5ROIHeads (C4 models): boxes and masks on a shared res5."""

    def check(self) -> None:
        check_pooler(self.heads.pooler, "roi_heads.pooler")
        self.check_predictors()
        if self.heads.mask_on:
            check_mask_head(self.heads.mask_head, "roi_heads.mask_head")

    def mask_features(self, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
        return self.heads.res5(pool(self.heads.pooler, [features[n] for n in self.heads.in_features], boxes))

    def detect(self, features: dict[str, Tensor], proposals: Tensor, height: int, width: int) -> Detections:
        predictor = self.heads.box_predictor
        logits, deltas = predictor(self.mask_features(features, proposals).mean(dim=[2, 3]))
        boxes = predictor.box2box_transform.apply_deltas(deltas, proposals)
        return select(boxes, logits.softmax(dim=1), predictor, height, width)

    def branches(self, features: dict[str, Tensor], detections: Detections) -> dict[str, Tensor]:
        boxes, _, classes = detections
        return {"masks": self.masks(features, boxes, classes)} if self.heads.mask_on else {}


def _check_class(module: nn.Module, expected: type, where: str) -> None:
    if not isinstance(module, expected):
        raise ConfigError(
            f"{where}: a {type(module).__name__} cannot be exported, as it is no {expected.__name__}"
        )


def check_mask_head(head: nn.Module, where: str) -> None:
    """Refuses a mask head that `mask_probabilities` cannot run.

    Args:
        head: of a model.
        where: its name there, for the message.

    Raises:
        ConfigError: it is not of Detectron2's kind.
    """
    _check_class(head, BaseMaskRCNNHead, where)


@functools.singledispatch
def heads_graph(heads: nn.Module) -> StandardHeads:
    """The function of tensors of a model's `roi_heads`, by their class.

    Raises:
        ConfigError: nothing is registered for the class, or a part of the heads cannot be exported.
    """
    raise ConfigError(f"roi_heads: models with {type(heads).__name__} cannot be exported")


heads_graph.register(StandardROIHeads, StandardHeads)
heads_graph.register(CascadeROIHeads, CascadeHeads)
heads_graph.register(Res5ROIHeads, Res5Heads)


@functools.singledispatch
def mask_probabilities(head: Any, x: Tensor, classes: Tensor) -> Tensor:
    """The masks that a mask head predicts for detections.

    Args:
        head: mask head of a model.
        x: (K, C, H, W) RoI features.
        classes: int64 (K,).

    Returns:
        (K, M, M) probabilities.
    """
    if hasattr(head, "masks_of"):
        return head.masks_of(x, [classes])[:, 0].sigmoid()
    logits = head.layers(x)
    return (logits[:, 0] if logits.shape[1] == 1 else of_class(logits, classes)).sigmoid()


@mask_probabilities.register
def _(head: SoftmaxMaskHead, x: Tensor, classes: Tensor) -> Tensor:
    return of_class(head.layers(x).softmax(dim=1), classes)


def of_class(values: Tensor, classes: Tensor) -> Tensor:
    """(K, num_classes, ...) and (K,) to (K, ...): the entry of each row's class."""
    return values[torch.arange(values.shape[0], device=values.device), classes]


def select(
    boxes: Tensor, probabilities: Tensor, predictor: FastRCNNOutputLayers, height: int, width: int
) -> Detections:
    """Scores above the threshold, suppression within each class, the best of all classes.

    Args:
        boxes: (P, 4) or (P, 4 * num_classes) xyxy in pixels.
        probabilities: (P, num_classes + 1), the background last.
        predictor: whose thresholds are used.
        height, width: of the image in pixels.

    Returns:
        The detections that have an area, best first; boxes are within the image.
    """
    num_classes = probabilities.shape[1] - 1
    valid = is_finite(boxes) & is_finite(probabilities)
    boxes = clip(boxes.unflatten(1, (-1, 4)), height, width)
    if boxes.shape[1] != num_classes:
        boxes = boxes.expand(-1, num_classes, 4)
    scores = probabilities[:, :-1]
    scores = torch.where(valid[:, None] & (scores > predictor.test_score_thresh), scores, -torch.inf)
    keep = nms_mask(boxes.transpose(0, 1), scores.transpose(0, 1), predictor.test_nms_thresh).transpose(0, 1)
    # More candidates than are asked for, so that their number need not be looked at.
    topk = predictor.test_topk_per_image
    ranked = torch.where(keep, scores, -torch.inf).reshape(-1)
    best, index = torch.cat([ranked, ranked.new_full((topk,), -torch.inf)]).topk(topk)
    boxes = boxes.reshape(-1, 4)
    index = index[(best > -torch.inf) & nonempty(boxes[index.clamp(max=boxes.shape[0] - 1)])]
    return boxes[index], scores.reshape(-1)[index], index % num_classes
