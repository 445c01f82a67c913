"""RoI heads on this package's poolers, trained on images that lack instances, masks or keypoints too."""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import (
    FastRCNNOutputLayers,
    Res5ROIHeads,
    StandardROIHeads,
    build_box_head,
    build_keypoint_head,
    build_mask_head,
    select_foreground_proposals,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .base_method import base_method
from .poolers import build_pooler, head_input_shape


def with_visible_keypoints(instances: list[Instances]) -> list[Instances]:
    """Keeps the proposals that hold at least one visible keypoint; of images without keypoints, none.

    Args:
        instances: foreground proposals with `proposal_boxes` and, where annotated, `gt_keypoints`:
            (K_i, num_keypoints, 3), x and y in pixels and visibility.
    """
    selected = []
    for image in instances:
        if not image.has("gt_keypoints"):
            selected.append(image[:0])
            continue
        x, y, visibility = image.gt_keypoints.tensor.unbind(dim=2)  # (K_i, num_keypoints) each
        x1, y1, x2, y2 = image.proposal_boxes.tensor[:, :, None].unbind(dim=1)  # (K_i, 1) each
        inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        selected.append(image[(inside & (visibility >= 1)).any(dim=1)])
    mean = sum(len(image) for image in selected) / max(len(selected), 1)
    get_event_storage().put_scalar("keypoint_head/num_fg_samples", mean)
    return selected


@ROI_HEADS_REGISTRY.register()
class MaskRCNNROIHeads(StandardROIHeads):
    """Box, mask and keypoint branches, each with its own pooler (FPN and C5 models).

    Detectron2's StandardROIHeads with the ROIPooler of this package; instances without `gt_masks` or
    `gt_keypoints` train the branches that their annotations serve.
    """

    # As Detectron2 annotates its own class, so that TorchScript leaves out the branches that are off.
    mask_on: torch.jit.Final[bool]
    keypoint_on: torch.jit.Final[bool]

    # Detectron2's own methods build poolers of its own types, which lack some of this package's.
    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        head = cfg.MODEL.ROI_BOX_HEAD
        pooler = build_pooler(cfg, head, input_shape)
        box_head = build_box_head(cfg, head_input_shape(cfg, head, input_shape))
        return {
            "box_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "box_pooler": pooler,
            "box_head": box_head,
            "box_predictor": FastRCNNOutputLayers(cfg, box_head.output_shape),
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        if not cfg.MODEL.MASK_ON:
            return {}
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "mask_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "mask_pooler": build_pooler(cfg, head, input_shape) if head.POOLER_TYPE else None,
            "mask_head": build_mask_head(cfg, head_input_shape(cfg, head, input_shape)),
        }

    @classmethod
    def _init_keypoint_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        if not cfg.MODEL.KEYPOINT_ON:
            return {}
        head = cfg.MODEL.ROI_KEYPOINT_HEAD
        return {
            "keypoint_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "keypoint_pooler": build_pooler(cfg, head, input_shape) if head.POOLER_TYPE else None,
            "keypoint_head": build_keypoint_head(cfg, head_input_shape(cfg, head, input_shape)),
        }

    _keypoints_at_test = base_method(StandardROIHeads._forward_keypoint, "_keypoints_at_test")

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]):
        if torch.jit.is_scripting():
            return self._keypoints_at_test(features, instances)
        else:
            if self.keypoint_on and self.training:
                instances, _ = select_foreground_proposals(instances, self.num_classes)
                instances = with_visible_keypoints(instances)
                boxes = [image.proposal_boxes for image in instances]
                return self.keypoint_head(self._keypoint_features(features, boxes), instances)
            return self._keypoints_at_test(features, instances)

    def _keypoint_features(self, features: dict[str, Tensor], boxes: list) -> Tensor | dict[str, Tensor]:
        if self.keypoint_pooler is None:
            return {name: features[name] for name in self.keypoint_in_features}
        return self.keypoint_pooler([features[name] for name in self.keypoint_in_features], boxes)


@ROI_HEADS_REGISTRY.register()
class MaskRCNNC4ROIHeads(Res5ROIHeads):
    """Box and mask branches on a shared res5 (C4 models; paper Figure 4, left), on this package's pooler."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if cfg.MODEL.KEYPOINT_ON:
            raise ValueError("MODEL.KEYPOINT_ON must be False: C4 RoI heads have no keypoint branch")
        if len(in_features) != 1:
            raise ValueError(f"MODEL.ROI_HEADS.IN_FEATURES must name one map for C4, got {in_features}")
        # Res5ROIHeads' own method builds a pooler of Detectron2's types, and tells the mask head the size
        # before res5.
        ret = super(Res5ROIHeads, cls).from_config(cfg)
        res5, channels = cls._build_res5_block(cfg)
        ret |= {
            "in_features": in_features,
            "pooler": build_pooler(cfg, cfg.MODEL.ROI_BOX_HEAD, input_shape),
            "res5": res5,
            "box_predictor": FastRCNNOutputLayers(cfg, ShapeSpec(channels=channels, height=1, width=1)),
        }
        if cfg.MODEL.MASK_ON:
            size = (cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION + 1) // 2
            ret["mask_head"] = build_mask_head(cfg, ShapeSpec(channels=channels, height=size, width=size))
        return ret
