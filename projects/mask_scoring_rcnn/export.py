"""Mask Scoring R-CNN as a function of tensors, for `mrcnn_plugin.export`."""

from __future__ import annotations

from torch import Tensor

from mrcnn_plugin.export import Detections, StandardHeads, heads_graph, mask_probabilities

from .roi_heads import MaskScoringROIHeads


class MaskScoringHeads(StandardHeads):
    """Heads whose masks have scores of their own."""

    heads: MaskScoringROIHeads

    def branches(self, features: dict[str, Tensor], detections: Detections) -> dict[str, Tensor]:
        """As StandardHeads, with `mask_scores` (K,)."""
        boxes, scores, classes = detections
        x = self.mask_features(features, boxes)
        masks = mask_probabilities(self.heads.mask_head, x, classes)
        iou = self.heads.mask_iou_head(x, masks[:, None], classes)
        outputs = {"masks": masks, "mask_scores": scores * iou}
        if self.heads.keypoint_on:
            outputs["keypoints"] = self.keypoints(features, boxes)
        return outputs


heads_graph.register(MaskScoringROIHeads, MaskScoringHeads)
