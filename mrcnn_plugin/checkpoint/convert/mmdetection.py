"""MMDetection's Faster and Mask R-CNN (ResNet or ResNeXt + FPN; MMDetection 2 and 3) -> Detectron2's names.

Names and shapes follow its sources (FPN, RPNHead, Shared2FCBBoxHead, FCNMaskHead). From version 2 on its
conventions are Detectron2's: background last, box deltas of weight 1 / (0.1, 0.1, 0.2, 0.2), RoIAlign shifted
by half a pixel with adaptive sampling, anchors that are not rounded. What is left is the backbone's style,
which a state dict does not tell: `use_mmdetection` of configs/common/models/mmdetection.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .names import rename

_NORM = r"(weight|bias|running_mean|running_var)"
_LAYER = r"backbone\.layer(\d)\.(\d+)\."
_RES = r"backbone.bottom_up.res{\1+1}.\2."
_RPN = "proposal_generator.rpn_head."
#: Rules for what lies behind the backbone: FPN, RPN, box and mask head.
NECK_AND_HEADS = (
    (r"neck\.lateral_convs\.(\d)\.conv\.(weight|bias)", r"backbone.fpn_lateral{\1+2}.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(weight|bias)", r"backbone.fpn_output{\1+2}.\2"),
    (r"rpn_head\.rpn_conv\.(weight|bias)", _RPN + r"conv.\1"),
    (r"rpn_head\.rpn_cls\.(weight|bias)", _RPN + r"objectness_logits.\1"),
    (r"rpn_head\.rpn_reg\.(weight|bias)", _RPN + r"anchor_deltas.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d)\.(weight|bias)", r"roi_heads.box_head.fc{\1+1}.\2"),
    (r"roi_head\.bbox_head\.fc_cls\.(weight|bias)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(weight|bias)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(weight|bias)", r"roi_heads.mask_head.mask_fcn{\1+1}.\2"),
    (r"roi_head\.mask_head\.upsample\.(weight|bias)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(weight|bias)", r"roi_heads.mask_head.predictor.\1"),
)
_RULES = (
    (r"backbone\.conv1\.weight", r"backbone.bottom_up.stem.conv1.weight"),
    (r"backbone\.bn1\." + _NORM, r"backbone.bottom_up.stem.conv1.norm.\1"),
    (_LAYER + r"conv(\d)\.weight", _RES + r"conv\3.weight"),
    (_LAYER + r"bn(\d)\." + _NORM, _RES + r"conv\3.norm.\4"),
    (_LAYER + r"downsample\.0\.weight", _RES + r"shortcut.weight"),
    (_LAYER + r"downsample\.1\." + _NORM, _RES + r"shortcut.norm.\3"),
    *NECK_AND_HEADS,
)


def convert_mmdetection(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of an MMDetection R-CNN with FPN -> the same weights under Detectron2's names.

    Args:
        state_dict: the checkpoint's "state_dict", with or without "module." before each name.

    Returns:
        The state dict of Detectron2's model; build it with `use_mmdetection` of
        configs/common/models/mmdetection.py.

    Raises:
        ValueError: a name that no such model has (other necks, norms in heads, deformable or deep-stem
            backbones), or a file of MMDetection 1, whose background is first.
    """
    state_dict = {name.removeprefix("module."): value for name, value in state_dict.items()}
    if "bbox_head.fc_cls.weight" in state_dict:
        raise ValueError(
            "these are weights of MMDetection 1, which put the background first; bring them to version 2 "
            "with MMDetection's tools/model_converters/upgrade_model_version.py"
        )
    # The frozen BatchNorm that Detectron2 fine-tunes with counts no batches.
    state_dict = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    state = rename(state_dict, _RULES, "mmdetection")
    classes = state["roi_heads.box_predictor.cls_score.weight"].shape[0] - 1
    deltas = state["roi_heads.box_predictor.bbox_pred.weight"].shape[0]
    if deltas not in (4, 4 * classes):
        raise ValueError(f"fc_reg must have 4 rows or 4 for each of {classes} classes, got {deltas}")
    return state
