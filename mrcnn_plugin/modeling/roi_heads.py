"""RoI heads on this package's poolers, trained on images that lack instances, masks or keypoints too."""

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import add_ground_truth_to_proposals
from detectron2.modeling.roi_heads import (
    Res5ROIHeads,
    ROIHeads,
    StandardROIHeads,
    build_box_head,
    build_keypoint_head,
    build_mask_head,
)
from detectron2.structures import ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .base_method import base_method
from .box_predictor import BoxPredictor
from .matching import SampledProposals, match, select_foreground, where_true
from .poolers import build_pooler, head_input_shape


def with_visible_keypoints(instances: list[Instances]) -> list[Instances]:
    """Keeps the proposals that hold at least one visible keypoint; of images without keypoints, none.

    Args:
        instances: foreground proposals with `proposal_boxes` and, where annotated, `gt_keypoints`:
            (K_i, num_keypoints, 3), x and y in pixels and visibility.
    """
    annotated, masks = [], []
    for image in instances:
        if not image.has("gt_keypoints"):
            continue
        x, y, visibility = image.gt_keypoints.tensor.unbind(dim=2)  # (K_i, num_keypoints) each
        x1, y1, x2, y2 = image.proposal_boxes.tensor[:, :, None].unbind(dim=1)  # (K_i, 1) each
        inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        annotated.append(image)
        masks.append((inside & (visibility >= 1)).any(dim=1))
    chosen = (image[found.first(found.count)] for image, found in zip(annotated, where_true(masks)))
    selected = [next(chosen) if image.has("gt_keypoints") else image[:0] for image in instances]
    mean = sum(len(image) for image in selected) / max(len(selected), 1)
    get_event_storage().put_scalar("keypoint_head/num_fg_samples", mean)
    return selected


class _Sampling(ROIHeads):
    """Labels and samples proposals with one host sync for all images."""

    @torch.jit.unused
    @torch.no_grad()
    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """Matches proposals with ground truth and draws those that the heads are trained on.

        The matches come to the host in one copy, and Detectron2's own function samples from them there. So
        the host knows how many are positive, and which ground truth of its own, polygons, they need.

        Args:
            proposals: N Instances with `proposal_boxes` and `objectness_logits`.
            targets: N Instances with `gt_boxes`, `gt_classes` and other fields "gt_...".

        Returns:
            N `SampledProposals`, the positive ones first, with `gt_classes` in [0, num_classes]; and, where
            an image has ground truth, the fields of the one that fits best.
        """
        if self.proposal_append_gt:
            proposals = add_ground_truth_to_proposals(targets, proposals)
        matches = []
        for image, truth in zip(proposals, targets):
            quality = pairwise_iou(truth.gt_boxes, image.proposal_boxes)
            index, label = match(self.proposal_matcher, quality)
            matches += [index, label.long(), truth.gt_classes.long()]
        on_host = torch.cat(matches).cpu().split([len(one) for one in matches])
        sampled = []
        for i, (image, truth) in enumerate(zip(proposals, targets)):
            index, label, classes = on_host[3 * i : 3 * i + 3]
            chosen, classes = self._sample_proposals(index, label, classes)
            sampled.append(self._sampled(image, truth, chosen, index[chosen], classes))
        storage = get_event_storage()
        positive = [image.num_foreground for image in sampled]
        storage.put_scalar("roi_head/num_fg_samples", sum(positive) / len(positive))
        negative = sum(map(len, sampled)) - sum(positive)
        storage.put_scalar("roi_head/num_bg_samples", negative / len(positive))
        return sampled

    def _sampled(
        self, image: Instances, truth: Instances, chosen: Tensor, matched: Tensor, classes: Tensor
    ) -> SampledProposals:
        """The chosen proposals of an image with their ground truth; the choice is on the host."""
        device = image.proposal_boxes.device
        chosen, there, labels = (one.to(device, non_blocking=True) for one in (chosen, matched, classes))
        fields = image[chosen].get_fields() | {"gt_classes": labels}
        if len(truth) > 0:
            for name, value in truth.get_fields().items():
                if name.startswith("gt_") and name not in fields:
                    on_device = getattr(value, "device", None) == device
                    fields[name] = value[there if on_device else matched]
        num_foreground = int((classes != self.num_classes).sum())
        return SampledProposals(image.image_size, num_foreground, **fields)


@ROI_HEADS_REGISTRY.register()
class MaskRCNNROIHeads(_Sampling, StandardROIHeads):
    """Box, mask and keypoint branches, each with its own pooler (FPN and C5 models).

    Detectron2's StandardROIHeads with the ROIPooler of this package; instances without `gt_masks` or
    `gt_keypoints` train the branches that their annotations serve.
    """

    # As Detectron2 annotates its own class, so that TorchScript leaves out the branches that are off.
    mask_on: torch.jit.Final[bool]  # type: ignore[misc]
    keypoint_on: torch.jit.Final[bool]  # type: ignore[misc]

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
            "box_predictor": BoxPredictor(cfg, box_head.output_shape),
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

    _masks_at_test = base_method(StandardROIHeads._forward_mask, "_masks_at_test")
    _keypoints_at_test = base_method(StandardROIHeads._forward_keypoint, "_keypoints_at_test")

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]):
        if torch.jit.is_scripting():
            return self._masks_at_test(features, instances)
        else:
            if not (self.mask_on and self.training):
                return self._masks_at_test(features, instances)
            positives = select_foreground(instances, self.num_classes)
            maps = [features[name] for name in self.mask_in_features]
            if self.mask_pooler is None:
                return self.mask_head(dict(zip(self.mask_in_features, maps)), positives)
            x = self.mask_pooler(maps, [image.proposal_boxes for image in positives])
            return self.mask_head(x, positives)

    def _forward_keypoint(self, features: dict[str, Tensor], instances: list[Instances]):
        if torch.jit.is_scripting():
            return self._keypoints_at_test(features, instances)
        else:
            if self.keypoint_on and self.training:
                instances = with_visible_keypoints(select_foreground(instances, self.num_classes))
                boxes = [image.proposal_boxes for image in instances]
                return self.keypoint_head(self._keypoint_features(features, boxes), instances)
            return self._keypoints_at_test(features, instances)

    def _keypoint_features(self, features: dict[str, Tensor], boxes: list) -> Tensor | dict[str, Tensor]:
        if self.keypoint_pooler is None:
            return {name: features[name] for name in self.keypoint_in_features}
        return self.keypoint_pooler([features[name] for name in self.keypoint_in_features], boxes)


@ROI_HEADS_REGISTRY.register()
class MaskRCNNC4ROIHeads(_Sampling, Res5ROIHeads):
    """Box and mask branches on a shared res5 (C4 models; paper Figure 4, left), on this package's pooler."""

    _detect = base_method(Res5ROIHeads.forward, "_detect")

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As Detectron2's: losses in training, detections in inference."""
        if torch.jit.is_scripting():
            return self._detect(images, features, proposals, targets)
        else:
            if self.training:
                return [], self._losses(features, proposals, targets)
            return self._detect(images, features, proposals, targets)

    @torch.jit.unused
    def _losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances] | None
    ) -> dict[str, Tensor]:
        assert targets is not None, "training needs the targets of the images"
        proposals = self.label_and_sample_proposals(proposals, targets)
        maps = [features[name] for name in self.in_features]
        x = self._shared_roi_transform(maps, [image.proposal_boxes for image in proposals])
        losses = self.box_predictor.losses(self.box_predictor(x.mean(dim=[2, 3])), proposals)
        if self.mask_on:
            # Positive RoIs come first in their image.
            positives = select_foreground(proposals, self.num_classes)
            parts = zip(x.split([len(image) for image in proposals]), positives)
            losses.update(self.mask_head(torch.cat([part[: len(image)] for part, image in parts]), positives))
        return losses

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
            "box_predictor": BoxPredictor(cfg, ShapeSpec(channels=channels, height=1, width=1)),
        }
        if cfg.MODEL.MASK_ON:
            size = (cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION + 1) // 2
            ret["mask_head"] = build_mask_head(cfg, ShapeSpec(channels=channels, height=size, width=size))
        return ret
