"""The switches of the paper's ablations (Tables 2 and 6). Each changes a config in place, of any data:

    from ..common.ablations import use_pooler
    from ..common.models.mask_rcnn_c4 import model

    use_pooler(model, pooler_type="ROIPool")

Two of them are plain overrides as well: `model.roi_heads.pooler.pooler_type=ROIPool` and
`model.roi_heads.mask_head.num_classes=1`.
"""

from mrcnn_plugin.modeling import MLPMaskHead, SoftmaxMaskHead


def use_pooler(model, *, pooler_type):
    """Boxes, masks and keypoints all pooled alike: Tables 2c, 2d and 6. See `ROIPooler` for the types."""
    for key in ("pooler", "box_pooler", "mask_pooler", "keypoint_pooler"):
        if key in model.roi_heads:
            model.roi_heads[key].pooler_type = pooler_type


def use_softmax_masks(model):
    """Classes compete for every pixel: Table 2b."""
    model.roi_heads.mask_head._target_ = SoftmaxMaskHead


def use_class_agnostic_masks(model):
    """One mask per RoI, whatever its class: section 4.2, "Class-Specific vs. Class-Agnostic Masks"."""
    model.roi_heads.mask_head.num_classes = 1


def use_mlp_masks(model, *, fc_dims):
    """Fully connected layers in place of the convolutions: Table 2e."""
    head = model.roi_heads.mask_head
    head._target_ = MLPMaskHead
    head.pop("conv_dims")
    head.fc_dims = fc_dims


def use_boxes_only(model, dataloader):
    """Faster R-CNN with RoIAlign: what the mask branch adds to the boxes (Table 3)."""
    for key in ("mask_in_features", "mask_pooler", "mask_head"):
        model.roi_heads.pop(key)
    dataloader.train.mapper.use_instance_mask = False


def use_one_map(model, *, name, stride, channels, anchor_sizes):
    """The ResNet's stage `name` in place of the pyramid on top of it, all anchors and RoIs on that map."""
    model.backbone = model.backbone.bottom_up
    model.backbone.out_features = [name]
    rpn, heads = model.proposal_generator, model.roi_heads
    rpn.in_features = [name]
    rpn.head.update(in_channels=channels, num_anchors=3 * len(anchor_sizes))
    rpn.anchor_generator.update(sizes=[anchor_sizes], strides=[stride])
    heads.box_in_features = [name]
    for branch in ("box", "mask"):
        heads[f"{branch}_pooler"].scales = [1.0 / stride]
        heads[f"{branch}_head"].input_shape.channels = channels
