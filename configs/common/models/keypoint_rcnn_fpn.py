"""Keypoint R-CNN on a feature pyramid (paper section 5): the mask branch gives way to a keypoint branch."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.modeling import OneHotKeypointHead

from .faster_rcnn_fpn import model
from .parts import pooler, square

model.roi_heads.update(
    num_classes=1,
    keypoint_in_features="${.box_in_features}",
    keypoint_pooler=pooler(14, [4, 8, 16, 32]),
    keypoint_head=L(OneHotKeypointHead)(
        input_shape=square("${....backbone.out_channels}", "${...keypoint_pooler.output_size}"),
        num_keypoints=17,
        conv_dims=[512] * 8,
        loss_normalizer="visible",
    ),
)

# Detectron's 2000 proposals per batch of two images; Detectron2 counts them per image, and 1000 cost box AP.
model.proposal_generator.post_nms_topk = (1500, 1000)
# With plain L1 on boxes the keypoints get worse.
model.roi_heads.box_predictor.smooth_l1_beta = 0.5
