"""Keypoint head: each keypoint is a one-hot S x S mask (paper section 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling import ROI_KEYPOINT_HEAD_REGISTRY
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.structures import Instances
from torch import Tensor

from mrcnn_plugin.ops import heatmaps_to_keypoints

_IGNORED = -1


def keypoint_loss(logits: Tensor, instances: list[Instances], normalizer: float | None) -> Tensor:
    """Cross-entropy over the S^2 positions of each keypoint that is visible and lies in its RoI.

    Args:
        logits: (K, num_keypoints, S, S).
        instances: proposals with `proposal_boxes` and `gt_keypoints`, in the order of `logits`.
        normalizer: what the summed loss is divided by; None is the number of keypoints that count.

    Returns:
        Scalar; 0, still connected to the graph, where no keypoint counts.
    """
    labels = [one_hot_labels(image, logits.shape[-1], logits.device) for image in instances if len(image) > 0]
    if not labels:
        return logits.sum() * 0.0
    # Labels of keypoints that do not count are ignored rather than removed: removal is a host sync.
    label = torch.cat(labels)
    total = F.cross_entropy(logits.flatten(2).flatten(0, 1), label, ignore_index=_IGNORED, reduction="sum")
    count = (label != _IGNORED).sum().clamp(min=1) if normalizer is None else normalizer
    return total / count


def one_hot_labels(instances: Instances, heatmap_size: int, device: torch.device) -> Tensor:
    """int64 (K_i * num_keypoints,): row-major position of each keypoint on its RoI's grid; -1 not counted."""
    position, valid = instances.gt_keypoints.to_heatmap(instances.proposal_boxes.tensor, heatmap_size)
    return torch.where(valid > 0, position, _IGNORED).flatten().to(device)


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class OneHotKeypointHead(KRCNNConvDeconvUpsampleHead):
    """The paper's keypoint branch: 3x3 convolutions, a deconvolution, bilinear upsampling by 2.

    Arguments, parameters and results are those of Detectron2's KRCNNConvDeconvUpsampleHead. The loss needs
    no host sync and takes batches without a single visible keypoint.
    """

    def forward(self, x: Tensor, instances: list[Instances]):
        """Losses in training, `instances` with `pred_keypoints` in inference.

        Args:
            x: (K, C, H, W) RoI features.
            instances: N Instances, K in all. In training, proposals with `proposal_boxes` and
                `gt_keypoints`; in inference, detections with `pred_boxes`.

        Returns:
            {"loss_keypoint": scalar}, or `instances` with `pred_keypoints` (K_i, num_keypoints, 3), which are
            x, y in pixels of the network's input and the score, and `pred_keypoint_heatmaps`
            (K_i, num_keypoints, S, S), logits.
        """
        logits = self.layers(x)
        if self.training:
            normalizer = None
            if self.loss_normalizer != "visible":
                normalizer = self.loss_normalizer * len(instances)
            return {"loss_keypoint": keypoint_loss(logits, instances, normalizer) * self.loss_weight}
        else:
            decode(logits.detach(), instances)
            return instances


def decode(logits: Tensor, instances: list[Instances]) -> None:
    """Sets `pred_keypoints` and `pred_keypoint_heatmaps`, in place, from (K, num_keypoints, S, S) logits."""
    boxes = torch.cat([image.pred_boxes.tensor for image in instances])
    # Not by len(image), which a trace would keep.
    sizes = [image.pred_boxes.tensor.shape[0] for image in instances]
    # The op's columns are x, y, logit, score; Detectron2's field holds x, y, score.
    keypoints = heatmaps_to_keypoints(logits, boxes)[:, :, [0, 1, 3]]
    for image, image_keypoints, heatmaps in zip(instances, keypoints.split(sizes), logits.split(sizes)):
        image.pred_keypoints = image_keypoints
        image.pred_keypoint_heatmaps = heatmaps
