"""ConvNeXt-T (arXiv 2201.03545, appendix A.3) by the recipe of its official Mask R-CNN config.

Two things of it are left out: the rates of lower layers falling by 0.95 per layer, and a LayerNorm on the
maps that the FPN takes.
"""

from ..common.data.augmentations import detr
from ..common.data.coco import dataloader
from ..common.models.mask_rcnn_fpn import model
from ..common.models.timm import use_timm
from ..common.optim import AdamW as optimizer
from ..common.schedule import use_multi_step
from ..common.train import train

use_timm(model, dataloader, name="convnext_tiny", drop_path_rate=0.4)
train.init_checkpoint = "timm://convnext_tiny.fb_in1k"
dataloader.train.mapper.update(augmentations=detr(), recompute_boxes=True)

# Nothing of one dimension decays: norms, biases, and the scales of the residuals.
optimizer.update(lr=1e-4, weight_decay=0.05)
optimizer.params.update(weight_decay_bias=0.0, overrides=dict(gamma=dict(weight_decay=0.0)))
train.amp.enabled = True
# 36 epochs of 7330 iterations of 16 images; the rate falls after 27 and 33.
lr_multiplier = use_multi_step(train, max_iter=36 * 7330, steps=(27 * 7330, 33 * 7330), warmup_iter=500)
