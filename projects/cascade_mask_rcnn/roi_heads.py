"""RoI heads of Cascade Mask R-CNN: box stages of rising IoU, and mask heads on one or several of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    build_box_head,
    build_mask_head,
)
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from mrcnn_plugin.modeling import BoxPredictor, MaskRCNNROIHeads
from mrcnn_plugin.modeling.matching import select_foreground
from mrcnn_plugin.modeling.poolers import build_pooler, head_input_shape

from .labels import label_proposals, with_gt_masks


@ROI_HEADS_REGISTRY.register()
class CascadeMaskRCNNROIHeads(MaskRCNNROIHeads, CascadeROIHeads):
    """Box stages in a row, each trained on the boxes that the one before has refined (arXiv 1906.09756).

    Detectron2's CascadeROIHeads on the poolers of mrcnn_plugin: with one mask head on the RoIs of the first
    stage parameters, losses and results are its own. Mask heads may be trained on other stages as well;
    masks are then the mean of what the heads predict for the final boxes.
    """

    @configurable
    def __init__(
        self,
        *,
        proposal_matchers: Sequence,
        mask_head: nn.Module | Sequence[nn.Module] | None = None,
        mask_stages: Sequence[int] = (0,),
        **kwargs,
    ) -> None:
        """
        Args:
            proposal_matchers: one per stage, of rising IoU.
            mask_head: a head or, for more than one stage, a head for each of `mask_stages`.
            mask_stages: the stages, from 0, on whose RoIs the heads are trained. The paper's three
                strategies are (0,), which is Detectron2's too, (2,) and (0, 1, 2).
            kwargs: as CascadeROIHeads: `box_heads` and `box_predictors`, one per stage, among others.

        Raises:
            ValueError: another number of heads than of stages, or a stage that does not exist.
        """
        single = mask_head is None or isinstance(mask_head, nn.Module)
        num_heads = 1 if single else len(mask_head)
        mask_stages = tuple(mask_stages)
        if len(mask_stages) != num_heads:
            raise ValueError(
                f"mask_stages must name one stage per mask head, got {mask_stages} for {num_heads}"
            )
        last = len(proposal_matchers) - 1
        if len(set(mask_stages)) != num_heads or not set(mask_stages) <= set(range(last + 1)):
            raise ValueError(f"mask_stages must be different stages from 0 to {last}, got {mask_stages}")
        super().__init__(
            proposal_matchers=list(proposal_matchers),
            mask_head=mask_head if single else nn.ModuleList(mask_head),
            **kwargs,
        )
        self.mask_stages = mask_stages

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        stages = cfg.MODEL.ROI_BOX_CASCADE_HEAD.get("MASK_STAGES", [0])
        return super().from_config(cfg, input_shape) | {"mask_stages": stages}

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        head, cascade = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_BOX_CASCADE_HEAD
        _check_stages(cfg)
        shape = head_input_shape(cfg, head, input_shape)
        box_heads = [build_box_head(cfg, shape) for _ in cascade.IOUS]
        return {
            "box_in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
            "box_pooler": build_pooler(cfg, head, input_shape),
            "box_heads": box_heads,
            "box_predictors": [
                BoxPredictor(cfg, one.output_shape, box2box_transform=Box2BoxTransform(weights))
                for one, weights in zip(box_heads, cascade.BBOX_REG_WEIGHTS)
            ],
            "proposal_matchers": [
                Matcher([iou], [0, 1], allow_low_quality_matches=False) for iou in cascade.IOUS
            ],
        }

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        ret = super()._init_mask_head(cfg, input_shape)
        more = len(cfg.MODEL.ROI_BOX_CASCADE_HEAD.get("MASK_STAGES", [0])) - 1
        if ret and more:
            shape = head_input_shape(cfg, cfg.MODEL.ROI_MASK_HEAD, input_shape)
            ret["mask_head"] = [ret["mask_head"], *(build_mask_head(cfg, shape) for _ in range(more))]
        return ret

    @property
    def mask_heads(self) -> list[nn.Module]:
        """The mask heads in the order of `mask_stages`; none where the model has no masks."""
        if not self.mask_on:
            return []
        return list(self.mask_head) if isinstance(self.mask_head, nn.ModuleList) else [self.mask_head]

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As Detectron2's ROIHeads.

        Returns:
            In training the proposals of the first stage and the losses: `loss_cls_stage{t}` and
            `loss_box_reg_stage{t}`, `loss_mask` or, with several heads, `loss_mask_stage{t}`,
            `loss_keypoint`. In inference the detections of the last stage, with scores averaged over the
            stages, and no losses.
        """
        if not self.training:
            return super().forward(images, features, proposals)
        proposals = self.label_and_sample_proposals(proposals, targets)
        losses = self.stage_losses(features, proposals, targets)
        losses.update(self._forward_keypoint(features, proposals))
        return proposals, losses

    def stage_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of all stages.

        Args:
            features: as in `forward`.
            proposals: N Instances, labelled for the first stage.
            targets: N Instances, the ground truth.
        """
        losses = {}
        maps = [features[name] for name in self.box_in_features]
        for stage in range(self.num_cascade_stages):
            predictions = self._run_stage(maps, proposals, stage)
            losses.update(self.box_losses(predictions, proposals, stage))
            if stage in self.mask_stages:
                losses.update(self.mask_losses(features, proposals, targets, stage))
            if stage + 1 < self.num_cascade_stages:
                proposals = self.refined_proposals(predictions, proposals, stage)
                proposals = self._match_and_label_boxes(proposals, stage + 1, targets)
        return losses

    def box_losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances], stage: int
    ) -> dict[str, Tensor]:
        """`loss_cls_stage{t}` and `loss_box_reg_stage{t}` of labelled proposals; see `refined_proposals`."""
        with get_event_storage().name_scope(f"stage{stage}"):
            losses = self.box_predictor[stage].losses(predictions, proposals)
        return {f"{name}_stage{stage}": loss for name, loss in losses.items()}

    def mask_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
        stage: int,
    ) -> dict[str, Tensor]:
        """Losses of the stage's mask head on the positive ones of its proposals; none without masks."""
        if not self.mask_on:
            return {}
        positives = select_foreground(proposals, self.num_classes)
        positives = [with_gt_masks(*pair) for pair in zip(positives, targets)]
        x = self.mask_features(features, [image.proposal_boxes for image in positives])
        index = self.mask_stages.index(stage)
        losses = self.mask_heads[index](self.mask_head_inputs(x, index + 1)[-1], positives)
        suffix = "" if len(self.mask_stages) == 1 else f"_stage{stage}"
        return {f"{name}{suffix}": loss for name, loss in losses.items()}

    def mask_head_inputs(self, x: Tensor | dict[str, Tensor], num_heads: int) -> list:
        """What each of the first `num_heads` mask heads makes of what `mask_features` returned: the same."""
        return [x] * num_heads

    def mask_features(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor | dict[str, Tensor]:
        """What a mask head sees: (K, C, H, W), or the maps themselves where there is no `mask_pooler`."""
        if self.mask_pooler is None:
            return {name: features[name] for name in self.mask_in_features}
        return self.mask_pooler([features[name] for name in self.mask_in_features], boxes)

    def refined_proposals(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances], stage: int
    ) -> list[Instances]:
        """The boxes that a stage makes of its proposals, detached and within the image.

        Args:
            predictions: class logits (K, num_classes + 1) and class-agnostic deltas (K, 4), in the stage's
                weights.
            proposals: N Instances with `proposal_boxes`, K in all.
            stage: the stage that predicted them.

        Returns:
            N Instances with `proposal_boxes`; in training without those that have no area.
        """
        boxes = self.box_predictor[stage].predict_boxes(predictions, proposals)
        return self._create_proposals_from_boxes(boxes, [image.image_size for image in proposals])

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int) -> tuple:
        # Under autocast too, boxes are refined and scores averaged in float32.
        return tuple(x.float() for x in super()._run_stage(features, proposals, stage))

    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        matcher = self.proposal_matchers[stage]
        labelled = [label_proposals(*pair, matcher, self.num_classes) for pair in zip(proposals, targets)]
        positive = sum((image.gt_classes < self.num_classes).sum().item() for image in labelled)
        storage = get_event_storage()
        for kind, count in (("fg", positive), ("bg", sum(map(len, labelled)) - positive)):
            storage.put_scalar(f"stage{stage}/roi_head/num_{kind}_samples", count / max(len(labelled), 1))
        return labelled

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> list[Instances]:
        """Masks of detections; `mask_losses` is what training calls."""
        if not self.mask_on:
            return instances
        x = self.mask_features(features, [image.pred_boxes for image in instances])
        return average_masks(self.mask_heads, self.mask_head_inputs(x, len(self.mask_heads)), instances)


def _check_stages(cfg: CfgNode) -> None:
    """What Detectron2's cascade asks of its keys, as errors that name them."""
    cascade, heads = cfg.MODEL.ROI_BOX_CASCADE_HEAD, cfg.MODEL.ROI_HEADS
    if len(cascade.BBOX_REG_WEIGHTS) != len(cascade.IOUS):
        raise ValueError(
            "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS and IOUS must have one entry per stage, got "
            f"{len(cascade.BBOX_REG_WEIGHTS)} and {len(cascade.IOUS)}"
        )
    if not cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
        raise ValueError(
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be True: a cascade's boxes are class-agnostic"
        )
    if cascade.IOUS[0] != heads.IOU_THRESHOLDS[0]:
        raise ValueError(
            "MODEL.ROI_BOX_CASCADE_HEAD.IOUS must begin with MODEL.ROI_HEADS.IOU_THRESHOLDS, got "
            f"{list(cascade.IOUS)} and {list(heads.IOU_THRESHOLDS)}"
        )


def average_masks(
    heads: Sequence[nn.Module], inputs: Sequence[Tensor | dict[str, Tensor]], instances: list[Instances]
) -> list[Instances]:
    """Mean of the mask probabilities that several heads predict for the same detections.

    Args:
        heads: mask heads in inference mode, which set `pred_masks`, (K_i, 1, M, M) probabilities.
        inputs: one per head: RoI features (K, C, H, W).
        instances: detections, K in all.

    Returns:
        `instances` with the mean as `pred_masks`.
    """
    masks = [[image.pred_masks for image in head(x, instances)] for head, x in zip(heads, inputs)]
    for image, predicted in zip(instances, zip(*masks)):
        image.pred_masks = torch.stack(predicted).mean(dim=0) if len(predicted) > 1 else predicted[0]
    return instances
