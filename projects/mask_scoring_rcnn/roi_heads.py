"""RoI heads that also predict how good each mask is."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from mrcnn_plugin.modeling import MaskRCNNROIHeads
from mrcnn_plugin.modeling.mask_loss import annotated, sigmoid_mask_loss, targets_of
from mrcnn_plugin.modeling.matching import select_foreground

from .mask_iou import area_ratio, mask_iou_loss, mask_iou_targets
from .mask_iou_head import MaskIoUHead


@ROI_HEADS_REGISTRY.register()
class MaskScoringROIHeads(MaskRCNNROIHeads):
    """MaskRCNNROIHeads with a MaskIoU head, which takes what the mask head takes, and its mask.

    Training adds `loss_mask_iou`. Detections have `mask_scores`, class score times predicted IoU, by which
    their masks are ranked, beside `scores`, by which their boxes are.
    """

    @configurable
    def __init__(self, *, mask_iou_head: nn.Module, **kwargs) -> None:
        """
        Args:
            mask_iou_head: a MaskIoUHead, or a module of its `forward` and `loss_weight`.
            kwargs: as MaskRCNNROIHeads; `mask_head` must predict one mask per RoI (FCNMaskHead, MLPMaskHead),
                from the features of a `mask_pooler`.
        """
        super().__init__(**kwargs)
        if not self.mask_on or self.mask_pooler is None or not hasattr(self.mask_head, "masks_of"):
            raise ValueError(
                "MaskScoringROIHeads needs a mask_pooler and a mask_head with masks_of(x, classes), such as "
                f"FCNMaskHead, got {type(kwargs.get('mask_head')).__name__}"
            )
        self.mask_iou_head = mask_iou_head

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        ret = super().from_config(cfg, input_shape)
        size = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
        channels = input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels
        ret["mask_iou_head"] = MaskIoUHead(cfg, ShapeSpec(channels=channels, height=size, width=size))
        return ret

    def _forward_mask(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        if self.training:
            instances = select_foreground(instances, self.num_classes)
            x = self._mask_features(features, [image.proposal_boxes for image in instances])
            return self._mask_losses(*annotated(x, instances))
        x = self._mask_features(features, [image.pred_boxes for image in instances])
        instances = self.mask_head(x, instances)
        self._score_masks(x, instances)
        return instances

    def _mask_features(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        return self.mask_pooler([features[name] for name in self.mask_in_features], boxes)

    def _mask_losses(self, x: Tensor, instances: list[Instances]) -> dict[str, Tensor]:
        classes = [image.gt_classes for image in instances]
        logits = self.mask_head.masks_of(x, classes)
        targets = targets_of(instances, logits.shape[-1]) if instances else logits[:, 0] > 0
        loss = sigmoid_mask_loss(logits, instances, self.mask_head.vis_period, targets)
        with torch.no_grad():
            ratios = [area_ratio(image.gt_masks, image.gt_boxes, image.proposal_boxes) for image in instances]
            ratio = torch.cat(ratios) if ratios else logits.new_zeros(0)
            iou_targets = mask_iou_targets(logits[:, 0] > 0, targets, ratio)
        index = torch.cat(classes) if classes else targets.new_zeros(0, dtype=torch.int64)
        # Gradients reach the mask head through the mask too, as in the authors' code.
        predicted = self.mask_iou_head(x, logits.sigmoid(), index)
        return {
            "loss_mask": loss * self.mask_head.loss_weight,
            "loss_mask_iou": mask_iou_loss(predicted, iou_targets) * self.mask_iou_head.loss_weight,
        }

    def _score_masks(self, x: Tensor, instances: list[Instances]) -> None:
        """Sets `mask_scores` (K_i,), from `scores` and the predicted IoU (paper section 3.2)."""
        masks = torch.cat([image.pred_masks for image in instances])
        classes = torch.cat([image.pred_classes for image in instances])
        iou = self.mask_iou_head(x, masks, classes)
        for image, image_iou in zip(instances, iou.split([len(image) for image in instances])):
            image.mask_scores = image.scores * image_iou
