"""Mask R-CNN on a feature pyramid (paper Figure 4, right): model."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.roi_heads import FastRCNNConvFCHead
from mrcnn_plugin.modeling import FCNMaskHead, MaskRCNN, MaskRCNNROIHeads

from ..data.constants import imagenet
from .parts import box_predictor, pooler, resnet, roi_sampling, rpn, square

_strides = [4, 8, 16, 32]
_channels = "${....backbone.out_channels}"

model = L(MaskRCNN)(
    backbone=L(FPN)(
        bottom_up=resnet(["res2", "res3", "res4", "res5"]),
        in_features="${.bottom_up.out_features}",
        out_channels=256,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=rpn(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        in_channels="${...backbone.out_channels}",
        anchor_sizes=[[32], [64], [128], [256], [512]],
        strides=[*_strides, 64],
        pre_nms_topk=(2000, 1000),
        post_nms_topk=(1000, 1000),
    ),
    roi_heads=L(MaskRCNNROIHeads)(
        **roi_sampling(),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=pooler(7, _strides),
        box_head=L(FastRCNNConvFCHead)(
            input_shape=square(_channels, "${...box_pooler.output_size}"),
            conv_dims=[],
            fc_dims=[1024, 1024],
        ),
        box_predictor=box_predictor(L(ShapeSpec)(channels="${...box_head.fc_dims[1]}")),
        mask_in_features="${.box_in_features}",
        mask_pooler=pooler(14, _strides),
        mask_head=L(FCNMaskHead)(
            input_shape=square(_channels, "${...mask_pooler.output_size}"),
            num_classes="${..num_classes}",
            # Four 3x3 convolutions and the deconvolution.
            conv_dims=[256] * 5,
        ),
    ),
    mask_format="bitmask",
    pixel_mean=imagenet.bgr_mean,
    pixel_std=imagenet.caffe_std,
    input_format="BGR",
)
