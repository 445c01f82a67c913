"""The built-in stick figures with COCO's 17 keypoints, drawn on first use: data loaders and evaluator."""

from .coco_keypoint import dataloader
from .shapes import dataloader as _shapes

dataloader.train.dataset.names = "shapes_keypoints_train"
dataloader.test.dataset.names = "shapes_keypoints_val"
dataloader.train.mapper.augmentations = _shapes.train.mapper.augmentations
dataloader.test.mapper.augmentations = _shapes.test.mapper.augmentations
for _split in ("train", "test"):
    dataloader[_split].num_workers = _shapes[_split].num_workers
dataloader.train.total_batch_size = _shapes.train.total_batch_size
