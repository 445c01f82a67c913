"""From one box stage to three."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from mrcnn_plugin.modeling import BoxPredictor
from mrcnn_plugin.projects.cascade_mask_rcnn import CascadeMaskRCNNROIHeads

# A refined box is nearer its target, so its deltas are smaller: the weights bring them back to unit variance.
_STAGES = {0.5: (10, 10, 5, 5), 0.6: (20, 20, 10, 10), 0.7: (30, 30, 15, 15)}
_channels = "${.....backbone.out_channels}"
_size = "${....box_pooler.output_size}"
_mask_size = "${....mask_pooler.output_size}"


def use_cascade(model):
    """Stages of the same size as the one box head that `model` has, class-agnostic in their boxes."""
    heads = model.roi_heads
    fc_dims = list(heads.pop("box_head").fc_dims)
    score_thresh = heads.pop("box_predictor").test_score_thresh
    heads.pop("proposal_matcher")
    heads._target_ = CascadeMaskRCNNROIHeads
    heads.update(
        box_heads=[
            L(FastRCNNConvFCHead)(
                input_shape=L(ShapeSpec)(channels=_channels, height=_size, width=_size),
                conv_dims=[],
                fc_dims=fc_dims,
            )
            for _ in _STAGES
        ],
        box_predictors=[
            L(BoxPredictor)(
                input_shape=L(ShapeSpec)(channels=fc_dims[-1]),
                test_score_thresh=score_thresh,
                box2box_transform=L(Box2BoxTransform)(weights=[float(weight) for weight in weights]),
                cls_agnostic_bbox_reg=True,
                num_classes="${...num_classes}",
            )
            for weights in _STAGES.values()
        ],
        proposal_matchers=[
            L(Matcher)(thresholds=[iou], labels=[0, 1], allow_low_quality_matches=False) for iou in _STAGES
        ],
    )


def use_mask_head_of_every_stage(model):
    """A mask head on the RoIs of each stage, averaged in inference."""
    heads = model.roi_heads
    heads.mask_stages = list(range(len(_STAGES)))
    head = heads.mask_head
    head.num_classes = "${...num_classes}"
    head.input_shape.update(channels=_channels, height=_mask_size, width=_mask_size)
    heads.mask_head = [head] * len(_STAGES)
