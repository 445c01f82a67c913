"""Small enough to learn the drawn street scenes from scratch in minutes on two CPU cores."""

from ..common.data.cityscapes import dataloader
from ..common.schedule import use_one_cycle
from ..Shapes.mask_rcnn_R_18_FPN import model, optimizer, train

dataloader.train.dataset.names = "cityscapes_drawn_train"
dataloader.test.dataset.names = "cityscapes_drawn_val"
# The images are small already: mirroring is the only augmentation.
del dataloader.train.mapper.augmentations[0]
dataloader.test.mapper.augmentations = []
dataloader.train.num_workers = dataloader.test.num_workers = 1

model.roi_heads.num_classes = 8

# 350 iterations of 8 images.
lr_multiplier = use_one_cycle(train, max_iter=350)
train.eval_period = 350
