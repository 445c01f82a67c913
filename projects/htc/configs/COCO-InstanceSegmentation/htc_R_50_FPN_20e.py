"""The paper's recipe, on COCO with COCO-stuff's labels in coco/stuffthingmaps."""

from ..common.htc import use_semantic_branch
from .htc_R_50_FPN_20e_without_semantic import dataloader, lr_multiplier, model, optimizer, train

# COCO-stuff's pixels hold 0 to 181, and 255 where they are not labelled.
use_semantic_branch(model, num_classes=182, fused_feature="p3", stride=8)
dataloader.train.dataset.names = "coco_2017_train_stuffthingmaps"
