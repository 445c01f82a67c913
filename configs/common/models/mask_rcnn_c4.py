"""Mask R-CNN on the fourth stage of a ResNet, with a shared fifth (paper Figure 4, left): model."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BottleneckBlock, ResNet
from mrcnn_plugin.modeling import FCNMaskHead, MaskRCNN, MaskRCNNC4ROIHeads

from ..data.constants import imagenet
from .parts import box_predictor, pooler, resnet, roi_sampling, rpn, square

_res5_channels = "${...res5.out_channels}"

model = L(MaskRCNN)(
    backbone=resnet(["res4"]),
    proposal_generator=rpn(
        in_features=["res4"],
        in_channels=1024,
        anchor_sizes=[[32, 64, 128, 256, 512]],
        strides=[16],
        pre_nms_topk=(12000, 6000),
        post_nms_topk=(2000, 1000),
    ),
    roi_heads=L(MaskRCNNC4ROIHeads)(
        **roi_sampling(),
        in_features=["res4"],
        pooler=pooler(14, [16]),
        res5=L(ResNet.make_stage)(
            block_class=BottleneckBlock,
            num_blocks=3,
            stride_per_block=[2, 1, 1],
            in_channels=1024,
            bottleneck_channels=512,
            out_channels=2048,
            norm="${...backbone.stages.norm}",
            stride_in_1x1="${...backbone.stages.stride_in_1x1}",
        ),
        box_predictor=box_predictor(L(ShapeSpec)(channels=_res5_channels, height=1, width=1)),
        mask_head=L(FCNMaskHead)(
            # res5 halves the pooled 14 x 14; the deconvolution doubles it again.
            input_shape=square(_res5_channels, 7),
            num_classes="${..num_classes}",
            conv_dims=[256],
        ),
    ),
    mask_format="bitmask",
    pixel_mean=imagenet.bgr_mean,
    pixel_std=imagenet.caffe_std,
    input_format="BGR",
)
