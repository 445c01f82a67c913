"""PANet's three parts, each a change of a Mask R-CNN + FPN model in place."""

from mrcnn_plugin.projects.panet import (
    AdaptiveBoxHead,
    AdaptiveFeaturePooler,
    PANetMaskHead,
    PathAggregationFPN,
)


def use_path_augmentation(model):
    model.backbone._target_ = PathAggregationFPN


def use_adaptive_pooling(model):
    """Boxes and masks from all of P2 to P5 (N2 to N5), fused by maximum after the heads' first layer."""
    heads = model.roi_heads
    num_levels = len(heads.box_in_features)
    heads.box_pooler._target_ = heads.mask_pooler._target_ = AdaptiveFeaturePooler
    heads.box_head.update(_target_=AdaptiveBoxHead, num_levels=num_levels)
    heads.mask_head.update(_target_=PANetMaskHead, num_levels=num_levels)


def use_fully_connected_fusion(model):
    model.roi_heads.mask_head.update(_target_=PANetMaskHead, fully_connected_fusion=True)
