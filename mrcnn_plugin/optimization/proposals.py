"""Proposals and detections that decode the boxes that are kept, and no others."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from .substitution import specialize


class JointRPNHead(StandardRPNHead):
    """StandardRPNHead whose two predictors read the hidden map once."""

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """L maps (N, C, H, W) -> L logits (N, A, H, W) and L deltas (N, A * box_dim, H, W)."""
        logits: list[Tensor] = []
        deltas: list[Tensor] = []
        sizes = [self.objectness_logits.out_channels, self.anchor_deltas.out_channels]
        for x in features:
            y = F.linear(self.conv(x).permute(0, 2, 3, 1), self.weight, self.bias)
            for outputs, part in zip((logits, deltas), y.permute(0, 3, 1, 2).split(sizes, dim=1)):
                outputs.append(part)
        return logits, deltas

    @torch.no_grad()
    def join(self) -> None:
        """Makes the joint weight of those of the two predictors."""
        both = (self.objectness_logits, self.anchor_deltas)
        weight = torch.cat([layer.weight.flatten(1) for layer in both])
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(torch.cat([layer.bias for layer in both]), requires_grad=False)


class SelectingRPN(RPN):
    """RPN that decodes only the anchors among the `pre_nms_topk` of a level."""

    def predict_proposals(
        self,
        anchors: list[Boxes],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_sizes: list[tuple[int, int]],
    ) -> list[Instances]:
        """As of RPN, logits (N, A_l) and deltas (N, A_l, box_dim) of each level; its results to the bit."""
        if pred_objectness_logits[0].device.type != "cpu":
            # Elsewhere, finding out which they are would be a wait for the device.
            return super().predict_proposals(anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes)
        top_logits, top_boxes = [], []
        for boxes, logits, deltas in zip(anchors, pred_objectness_logits, pred_anchor_deltas):
            count = min(logits.shape[1], int(self.pre_nms_topk[False]))
            index = torch.stack([_top(one, count) for one in logits])  # (N, count)
            chosen = deltas.gather(1, index[..., None].expand(-1, -1, deltas.shape[2]))
            decoded = self.box2box_transform.apply_deltas(
                chosen.flatten(0, 1), boxes.tensor[index].flatten(0, 1)
            )
            top_logits.append(logits.gather(1, index))
            top_boxes.append(decoded.view_as(chosen))
        return find_top_rpn_proposals(
            top_boxes,
            top_logits,
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[False],
            self.post_nms_topk[False],
            self.min_box_size,
            False,
        )


def _top(logits: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest, ascending; of equal ones those that a stable sort would choose."""
    if count == len(logits):
        return torch.arange(count)
    least = logits.topk(count, sorted=False).values.min()
    if not least.isfinite():
        return logits.argsort(descending=True, stable=True)[:count].sort().values
    above = (logits > least).nonzero()[:, 0]
    equal = (logits == least).nonzero()[: count - len(above), 0]
    return torch.cat([above, equal]).sort().values


class SelectingBoxPredictor(FastRCNNOutputLayers):
    """FastRCNNOutputLayers that decodes the boxes of a RoI only where a score exceeds the threshold."""

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """As of FastRCNNOutputLayers: scores (K, num_classes + 1) and deltas of N images; its results to the
        bit."""
        if predictions[0].device.type != "cpu":
            return super().inference(predictions, proposals)
        probabilities = self.predict_probs(predictions, proposals)
        deltas = predictions[1].split([len(image) for image in proposals])
        results, indices = [], []
        for image, scores, image_deltas in zip(proposals, probabilities, deltas):
            rows = (scores[:, :-1] > self.test_score_thresh).any(dim=1).nonzero()[:, 0]
            boxes = self.box2box_transform.apply_deltas(image_deltas[rows], image.proposal_boxes.tensor[rows])
            detections, kept = fast_rcnn_inference_single_image(
                boxes,
                scores[rows],
                image.image_size,
                self.test_score_thresh,
                self.test_nms_thresh,
                self.test_topk_per_image,
            )
            results.append(detections)
            indices.append(rows[kept])
        return results, indices


_BOX_METHODS = ("inference", "predict_boxes", "predict_probs")


def optimize_proposals(model: nn.Module) -> None:
    """Changes, in place, RPNs and box predictors of Detectron2's own classes."""
    module: Any
    for module in list(model.modules()):
        kind = type(module)
        if kind is RPN:
            specialize(module, SelectingRPN)
        elif kind is StandardRPNHead and module.objectness_logits.kernel_size == (1, 1):
            specialize(module, JointRPNHead)
            module.join()
        elif isinstance(module, FastRCNNOutputLayers) and all(
            getattr(kind, name) is getattr(FastRCNNOutputLayers, name) for name in _BOX_METHODS
        ):
            specialize(module, SelectingBoxPredictor)
