"""The built-in shapes with instance masks, drawn on first use: data loaders and evaluator."""

from .coco import dataloader

dataloader.train.dataset.names = "shapes_train"
dataloader.test.dataset.names = "shapes_val"

# The images are small already: mirroring is the only augmentation.
del dataloader.train.mapper.augmentations[0]
dataloader.test.mapper.augmentations = []

dataloader.train.total_batch_size = 8
# One process keeps up with a model on the CPU, and leaves it the cores.
dataloader.train.num_workers = 1
dataloader.test.num_workers = 1
