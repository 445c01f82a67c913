"""Pieces that the models of the family share; channel counts follow the backbone's by interpolation."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import StandardRPNHead
from mrcnn_plugin.modeling import BoxPredictor, MaskRCNNRPN, ROIPooler


def resnet(out_features):
    """ResNet-50 as in the weights MSRA trained on ImageNet: stride in the 1x1, BatchNorm folded."""
    return L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="FrozenBN"),
        out_features=out_features,
        freeze_at=2,
    )


def rpn(in_features, in_channels, anchor_sizes, strides, pre_nms_topk, post_nms_topk):
    """Region proposals; `anchor_sizes` in pixels, one list for each feature map."""
    return L(MaskRCNNRPN)(
        in_features=in_features,
        head=L(StandardRPNHead)(
            in_channels=in_channels,
            # Three aspect ratios for each size of one level.
            num_anchors=3 * len(anchor_sizes[0]),
        ),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=anchor_sizes, aspect_ratios=[0.5, 1.0, 2.0], strides=strides, offset=0.0
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=pre_nms_topk,
        post_nms_topk=post_nms_topk,
        nms_thresh=0.7,
    )


def roi_sampling():
    """How RoI heads pick the RoIs they train on: 512 per image, a quarter of them positive (IoU >= 0.5)."""
    return dict(
        num_classes=80,
        batch_size_per_image=512,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
    )


def pooler(output_size, strides):
    return L(ROIPooler)(
        output_size=output_size,
        scales=[1.0 / stride for stride in strides],
        sampling_ratio=0,
        pooler_type="ROIAlignV2",
    )


def box_predictor(input_shape):
    """`input_shape`: of the features that one linear layer turns into scores and boxes."""
    return L(BoxPredictor)(
        input_shape=input_shape,
        test_score_thresh=0.05,
        box2box_transform=L(Box2BoxTransform)(weights=[10.0, 10.0, 5.0, 5.0]),
        num_classes="${..num_classes}",
    )


def square(channels, size):
    """Shape of RoI features, of `size` pixels a side."""
    return L(ShapeSpec)(channels=channels, height=size, width=size)
