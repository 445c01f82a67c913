"""A Mask R-CNN of Detectron2's own parts, small enough for a step in a fraction of a second.

It stands for any LazyConfig of Detectron2's shape.
"""

from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.resnet import BasicBlock
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import OmegaConf
from torch.optim import SGD

_CHANNELS = 8


def _pooler(size):
    return L(ROIPooler)(output_size=size, scales=(1 / 4, 1 / 8), sampling_ratio=1, pooler_type="ROIAlignV2")


def _stage(channels, stride):
    return L(ResNet.make_stage)(
        block_class=BasicBlock,
        num_blocks=1,
        in_channels=_CHANNELS,
        out_channels=channels,
        stride_per_block=[stride],
        norm="BN",
    )


def _square(size):
    return L(ShapeSpec)(channels=_CHANNELS, width=size, height=size)


model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=_CHANNELS, norm="BN"),
            stages=[_stage(_CHANNELS, stride=1), _stage(2 * _CHANNELS, stride=2)],
            out_features=["res2", "res3"],
        ),
        in_features=["res2", "res3"],
        out_channels=_CHANNELS,
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3"],
        head=L(StandardRPNHead)(in_channels=_CHANNELS, num_anchors=1),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[12], [24]], aspect_ratios=[1.0], strides=[4, 8], offset=0.0
        ),
        anchor_matcher=L(Matcher)(thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_topk=(64, 64),
        post_nms_topk=(16, 16),
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=4,
        batch_size_per_image=16,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False),
        box_in_features=["p2", "p3"],
        box_pooler=_pooler(3),
        box_head=L(FastRCNNConvFCHead)(input_shape=_square(3), conv_dims=[], fc_dims=[16]),
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=L(ShapeSpec)(channels=16),
            test_score_thresh=0.0,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
        ),
        mask_in_features=["p2", "p3"],
        mask_pooler=_pooler(4),
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=_square(4), num_classes="${..num_classes}", conv_dims=[_CHANNELS, _CHANNELS]
        ),
    ),
    pixel_mean=[103.53, 116.28, 123.675],
    pixel_std=[57.375, 57.12, 58.395],
    input_format="BGR",
)

dataloader = OmegaConf.create()
dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="shapes_train"),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[L(T.RandomFlip)(horizontal=True)],
        image_format="BGR",
        use_instance_mask=True,
    ),
    total_batch_size=2,
    num_workers=0,
)
dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="shapes_val", filter_empty=False),
    mapper=L(DatasetMapper)(is_train=False, augmentations=[], image_format="BGR"),
    num_workers=0,
)
dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")

optimizer = L(SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.01, momentum=0.9, weight_decay=1e-4
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[8, 10]),
    warmup_length=0.5,
    warmup_method="linear",
    warmup_factor=0.01,
)
train = {
    "output_dir": "./output",
    "init_checkpoint": "",
    "max_iter": 6,
    "amp": {"enabled": False},
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
    "checkpointer": {"period": 3, "max_to_keep": 10},
    "eval_period": 0,
    "log_period": 1,
    "seed": 7,
}
