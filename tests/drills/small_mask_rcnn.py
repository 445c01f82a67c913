"""The tiny config of the tests with this plugin's components, whose memory the drill watches."""

from mrcnn_plugin.modeling import FCNMaskHead, MaskRCNN, MaskRCNNROIHeads, ROIPooler

from ..helpers.tiny_mask_rcnn import dataloader, lr_multiplier, model, optimizer, train  # noqa: F401

model._target_ = MaskRCNN
model.roi_heads._target_ = MaskRCNNROIHeads
model.roi_heads.mask_head._target_ = FCNMaskHead
model.roi_heads.box_pooler._target_ = model.roi_heads.mask_pooler._target_ = ROIPooler
