"""Paper, appendix A, fine-tuned from COCO: 7 of the 8 classes start as COCO's.

The weights come from a COCO model (rider is drawn at random, as in the paper):
python -m mrcnn_plugin.checkpoint.convert --to cityscapes \
    detectron2://COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl \
    mask_rcnn_R_50_FPN_cityscapes.safetensors
"""

from ..common.schedule import use_multi_step
from .mask_rcnn_R_50_FPN import dataloader, model, optimizer, train

# 4000 iterations of 8 images; 0.01 falls to 0.001 at 3000.
lr_multiplier = use_multi_step(train, max_iter=4000, steps=(3000,))
train.eval_period = 1000
train.init_checkpoint = "mask_rcnn_R_50_FPN_cityscapes.safetensors"
