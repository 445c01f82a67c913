"""Small models as Detectron2's CfgNode configs describe them, with this plugin's components."""

from __future__ import annotations

from detectron2.config import CfgNode, get_cfg

import mrcnn_plugin


def small_config(kind: str) -> CfgNode:
    """A narrow model on the CPU; `kind` is "mask", or "both" for softmax masks and keypoints."""
    cfg = get_cfg()
    mrcnn_plugin.add_config(cfg)
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    model = cfg.MODEL
    model.update(DEVICE="cpu", META_ARCHITECTURE="MaskRCNN", MASK_ON=True)
    model.ROI_MASK_HEAD.update(NAME="FCNMaskHead", CONV_DIM=16, NUM_CONV=2, POOLER_RESOLUTION=14)
    model.ROI_HEADS.update(NUM_CLASSES=3, SCORE_THRESH_TEST=0.0, BATCH_SIZE_PER_IMAGE=16)
    model.RPN.update(PRE_NMS_TOPK_TEST=50, POST_NMS_TOPK_TEST=20)
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.update(DEPTH=18, RES2_OUT_CHANNELS=64, OUT_FEATURES=["res2", "res3", "res4", "res5"])
    model.FPN.update(IN_FEATURES=["res2", "res3", "res4", "res5"], OUT_CHANNELS=16)
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.ROI_HEADS.update(NAME="MaskRCNNROIHeads", IN_FEATURES=["p2", "p3", "p4", "p5"])
    model.ROI_BOX_HEAD.update(NAME="FastRCNNConvFCHead", NUM_FC=1, FC_DIM=32, POOLER_RESOLUTION=7)
    if kind == "both":
        model.ROI_MASK_HEAD.NAME = "SoftmaxMaskHead"
        model.KEYPOINT_ON = True
        model.ROI_KEYPOINT_HEAD.update(NAME="OneHotKeypointHead", CONV_DIMS=[16], NUM_KEYPOINTS=4)
    return cfg
