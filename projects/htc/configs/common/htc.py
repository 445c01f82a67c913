"""From Mask R-CNN to a Hybrid Task Cascade."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.configs.common.models.parts import pooler
from mrcnn_plugin.projects.cascade_mask_rcnn.configs.common.cascade import (
    use_cascade,
    use_mask_head_of_every_stage,
)
from mrcnn_plugin.projects.htc import FusedSemanticHead, HTCMaskHead, HTCROIHeads, HybridTaskCascade


def use_htc(model):
    """Three stages of boxes and masks by turns, with mask information flow; without the semantic branch."""
    use_cascade(model)
    use_mask_head_of_every_stage(model)
    heads = model.roi_heads
    # All stages have their heads here.
    heads.pop("mask_stages")
    heads._target_ = HTCROIHeads
    heads.update(interleaved=True, mask_info_flow=True, stage_loss_weights=[1.0, 0.5, 0.25])
    for stage, head in enumerate(heads.mask_head):
        head.update(_target_=HTCMaskHead, info_flow="${...mask_info_flow}" if stage > 0 else False)


def use_semantic_branch(model, *, num_classes, fused_feature, stride):
    """`num_classes`: of the semantic labels; `fused_feature`: the level whose `stride` the branch has."""
    model._target_ = HybridTaskCascade
    sizes = model.roi_heads.box_pooler.output_size, model.roi_heads.mask_pooler.output_size
    model.roi_heads.update(
        semantic_head=L(FusedSemanticHead)(
            in_features="${...proposal_generator.in_features}",
            in_channels="${...backbone.out_channels}",
            num_classes=num_classes,
            fused_feature=fused_feature,
        ),
        semantic_box_pooler=pooler(sizes[0], [stride]),
        semantic_mask_pooler=pooler(sizes[1], [stride]),
    )
