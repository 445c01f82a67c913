"""RoI heads on this package's poolers, trained on images that lack instances, masks or keypoints too."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import (
    Res5ROIHeads,
    StandardROIHeads,
    build_mask_head,
    select_foreground_proposals,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .poolers import build_pooler

# Detectron2 builds poolers of its own types only; ours replace them at once.
_STAND_IN = "ROIAlignV2"


def _with_stand_in_poolers(cfg: CfgNode) -> CfgNode:
    """A copy of `cfg` in which every pooler is of a type that Detectron2 knows."""
    cfg = cfg.clone()
    cfg.defrost()
    for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_KEYPOINT_HEAD):
        if head.POOLER_TYPE:
            head.POOLER_TYPE = _STAND_IN
    return cfg


def with_visible_keypoints(instances: list[Instances]) -> list[Instances]:
    """Keeps the proposals that hold at least one visible keypoint; of images without keypoints, none.

    Args:
        instances: foreground proposals with `proposal_boxes` and, where annotated, `gt_keypoints`:
            (R_i, K, 3), x and y in pixels and visibility.
    """
    selected = []
    for image in instances:
        if not image.has("gt_keypoints"):
            selected.append(image[:0])
            continue
        x, y, visibility = image.gt_keypoints.tensor.unbind(dim=2)  # (R_i, K) each
        x1, y1, x2, y2 = image.proposal_boxes.tensor[:, :, None].unbind(dim=1)  # (R_i, 1) each
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

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        ret = super().from_config(_with_stand_in_poolers(cfg), input_shape)
        heads = {
            "box_pooler": cfg.MODEL.ROI_BOX_HEAD,
            "mask_pooler": cfg.MODEL.ROI_MASK_HEAD,
            "keypoint_pooler": cfg.MODEL.ROI_KEYPOINT_HEAD,
        }
        for name, head in heads.items():
            if ret.get(name) is not None:
                ret[name] = build_pooler(cfg, head, input_shape)
        return ret

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]):
        if self.keypoint_on and self.training:
            instances, _ = select_foreground_proposals(instances, self.num_classes)
            instances = with_visible_keypoints(instances)
            boxes = [image.proposal_boxes for image in instances]
            return self.keypoint_head(self._keypoint_features(features, boxes), instances)
        return super()._forward_keypoint(features, instances)

    def _keypoint_features(self, features: dict[str, Tensor], boxes: list) -> Tensor | dict[str, Tensor]:
        if self.keypoint_pooler is None:
            return {name: features[name] for name in self.keypoint_in_features}
        return self.keypoint_pooler([features[name] for name in self.keypoint_in_features], boxes)


@ROI_HEADS_REGISTRY.register()
class MaskRCNNC4ROIHeads(Res5ROIHeads):
    """Box and mask branches on a shared res5 (C4 models; paper Figure 4, left), on this package's pooler."""

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        stand_in = _with_stand_in_poolers(cfg)
        # Detectron2 would tell the mask head the size before res5.
        stand_in.MODEL.MASK_ON = False
        ret = super().from_config(stand_in, input_shape)
        ret["pooler"] = build_pooler(cfg, cfg.MODEL.ROI_BOX_HEAD, input_shape)
        if cfg.MODEL.MASK_ON:
            size = (cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION + 1) // 2
            channels = ret["res5"][-1].out_channels
            ret["mask_head"] = build_mask_head(cfg, ShapeSpec(channels=channels, width=size, height=size))
        return ret
