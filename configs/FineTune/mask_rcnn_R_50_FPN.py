"""Masks of one's own data from a Mask R-CNN that has learned COCO; predictors of other classes start anew."""

from ..common.data.coco import dataloader
from ..common.fine_tune import use_fine_tuning
from ..common.models.mask_rcnn_fpn import model
from ..common.optim import AdamW as optimizer
from ..common.train import train

lr_multiplier = use_fine_tuning(dataloader, optimizer, train)
# Detectron2's weights have the stride in the 1x1 convolutions, as the model has.
train.init_checkpoint = (
    "detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl"
)
