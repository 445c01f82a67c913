"""RoI heads of the Hybrid Task Cascade: boxes and masks refined by turns, with semantic context for both."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.logger import log_first_n
from torch import Tensor, nn

from mrcnn_plugin.projects.cascade_mask_rcnn import CascadeMaskRCNNROIHeads

#: Key of the semantic features beside those of the backbone.
SEMANTIC = "semantic"


@ROI_HEADS_REGISTRY.register()
class HTCROIHeads(CascadeMaskRCNNROIHeads):
    """Cascade Mask R-CNN with a mask head in every stage and three changes, each with its switch.

    Interleaved execution: a stage's mask head is trained on the boxes that its box head has just refined.
    Mask information flow: each mask head hears the one before it (both section 3.1 of arXiv 1901.07518).
    Semantic branch: features of a segmentation of the whole image are added to those of every RoI (3.2).
    """

    @configurable
    def __init__(
        self,
        *,
        mask_head: Sequence[nn.Module],
        interleaved: bool = True,
        mask_info_flow: bool = True,
        semantic_head: nn.Module | None = None,
        semantic_box_pooler: nn.Module | None = None,
        semantic_mask_pooler: nn.Module | None = None,
        stage_loss_weights: Sequence[float] = (1.0, 0.5, 0.25),
        **kwargs,
    ) -> None:
        """
        Args:
            mask_head: an HTCMaskHead for each stage.
            interleaved, mask_info_flow: switches; the second needs heads with `info_flow`, but for the first.
            semantic_head: a FusedSemanticHead; None: no semantic branch.
            semantic_box_pooler, semantic_mask_pooler: pool its features as the poolers of boxes and masks do
                those of the pyramid; needed with a `semantic_head`.
            stage_loss_weights: the alphas of section 3.3, one per stage.
            kwargs: as CascadeMaskRCNNROIHeads.
        """
        num_stages = len(kwargs["box_heads"])
        super().__init__(mask_head=mask_head, mask_stages=range(num_stages), **kwargs)
        if len(stage_loss_weights) != num_stages:
            got = list(stage_loss_weights)
            raise ValueError(f"stage_loss_weights must hold {num_stages} numbers, one per stage, got {got}")
        if mask_info_flow and not all(head.info_flow for head in self.mask_heads[1:]):
            raise ValueError("mask_head: all heads but the first must have info_flow=True for mask_info_flow")
        if semantic_head is not None and None in (semantic_box_pooler, semantic_mask_pooler):
            raise ValueError("semantic_head needs a semantic_box_pooler and a semantic_mask_pooler")
        self.interleaved, self.mask_info_flow = interleaved, mask_info_flow
        self.semantic_head = semantic_head
        self.semantic_box_pooler, self.semantic_mask_pooler = semantic_box_pooler, semantic_mask_pooler
        self.stage_loss_weights = tuple(stage_loss_weights)
        if semantic_head is not None:
            # So the box branch is handed the semantic features with, and after, those of the pyramid.
            self.box_in_features = [*self.box_in_features, SEMANTIC]

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        raise NotImplementedError("HTCROIHeads is built from a LazyConfig: see projects/htc/configs")

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """As CascadeMaskRCNNROIHeads, with `loss_semantic` too.

        Args:
            images: with semantic labels, those of a LabelledImageList.
        """
        semantic_losses = {}
        if self.semantic_head is not None:
            embedding, logits = self.semantic_head(features)
            features = {**features, SEMANTIC: embedding}
            if self.training:
                sem_seg = getattr(images, "sem_seg", None)
                if sem_seg is None:
                    text = "No image of a batch has `sem_seg`: the semantic branch is not trained on it"
                    log_first_n(logging.WARNING, text, name=__name__)
                semantic_losses = self.semantic_head.losses(logits, sem_seg)
        results, losses = super().forward(images, features, proposals, targets)
        return results, {**losses, **semantic_losses}

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """As Detectron2's StandardROIHeads: masks for boxes that are known."""
        if self.semantic_head is not None and SEMANTIC not in features:
            features = {**features, SEMANTIC: self.semantic_head(features)[0]}
        return super().forward_with_given_boxes(features, instances)

    def stage_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> dict[str, Tensor]:
        """Losses of all stages, weighted; see CascadeMaskRCNNROIHeads."""
        losses = {}
        maps = [features[name] for name in self.box_in_features]
        for stage, weight in enumerate(self.stage_loss_weights):
            predictions = self._run_stage(maps, proposals, stage)
            of_stage = self.box_losses(predictions, proposals, stage)
            refined = self.refined_proposals(predictions, proposals, stage)
            if self.interleaved:
                proposals = self._match_and_label_boxes(refined, stage, targets)
            of_stage.update(self.mask_losses(features, proposals, targets, stage))
            losses.update({name: weight * loss for name, loss in of_stage.items()})
            if stage + 1 < self.num_cascade_stages:
                proposals = self._match_and_label_boxes(refined, stage + 1, targets)
        return losses

    def mask_features(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        """(K, C, H, W): RoI features, and semantic ones where there is the branch."""
        x = super().mask_features(features, boxes)
        if self.semantic_head is None:
            return x
        return x + self.semantic_mask_pooler([features[SEMANTIC]], boxes)

    def mask_head_inputs(self, x: Tensor, num_heads: int) -> list[Tensor]:
        """Mask features of the first `num_heads` stages, each with what the one before it has found."""
        refined, previous = [], None
        for head in self.mask_heads[:num_heads]:
            refined.append(head.refine(x, previous))
            if self.mask_info_flow:
                previous = refined[-1]
        return refined

    def _run_stage(self, features: list[Tensor], proposals: list[Instances], stage: int) -> tuple:
        # The stages' weights stand in for the scaled gradients of Detectron2's cascade.
        boxes = [image.proposal_boxes for image in proposals]
        if self.semantic_head is None:
            x = self.box_pooler(features, boxes)
        else:
            *features, semantic = features
            x = self.box_pooler(features, boxes) + self.semantic_box_pooler([semantic], boxes)
        predictions = self.box_predictor[stage](self.box_head[stage](x))
        # Under autocast too, boxes are refined and scores averaged in float32.
        return tuple(prediction.float() for prediction in predictions)
