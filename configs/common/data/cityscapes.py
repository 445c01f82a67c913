"""Cityscapes' fine annotations of instances, or the drawn scenes in its layout: loaders and evaluator."""

import mrcnn_plugin
from detectron2.config import LazyCall as L
from mrcnn_plugin.evaluation.cityscapes import CityscapesInstanceEvaluator

from .coco import dataloader

dataloader.train.dataset.names = "cityscapes_fine_instance_seg_train"
dataloader.test.dataset.names = "cityscapes_fine_instance_seg_val"

# Paper, appendix A: the shorter side from 800 to 1024, at test time 1024 (the images' own size).
dataloader.train.mapper.augmentations[0].update(
    short_edge_length=(800, 832, 864, 896, 928, 960, 992, 1024), max_size=2048
)
dataloader.test.mapper.augmentations[0].update(short_edge_length=1024, max_size=2048)
dataloader.train.total_batch_size = 8
dataloader.evaluator = L(CityscapesInstanceEvaluator)(dataset_name="${..test.dataset.names}")
