from ..common.models.mask_rcnn_c4 import model
from .mask_rcnn_R_50_FPN import dataloader, lr_multiplier, optimizer, train

# 64 RoIs per image in training, 300 proposals in testing.
model.roi_heads.batch_size_per_image = 64
model.proposal_generator.post_nms_topk = (2000, 300)
