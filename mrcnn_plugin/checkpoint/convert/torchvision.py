"""torchvision's Faster, Mask and Keypoint R-CNN (ResNet + FPN, v1 and v2) -> Detectron2's parameter names.

What differs beyond names, and where it is handled:

- classes: torchvision's first row of every predictor is the background and its COCO models have a row for
  each of the 91 category ids; Detectron2's background is last and its classes are the 80 that exist (here);
- BatchNorm: torchvision sets epsilon to 0 in its published v1 models, Detectron2's is 1e-5 (here: the scale
  takes up the difference);
- input (RGB, mean and deviation), RoIAlign (no half-pixel shift, 2 samples), anchors (rounded to whole
  pixels) and proposal counts: `use_torchvision` of configs/common/models/torchvision.py;
- box coding is the same: deltas of weight (10, 10, 5, 5), clamped at log(1000 / 16).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .names import rename

#: Category ids of COCO's 80 classes; the other ids below 91 were never used in a release.
COCO_IDS = tuple(sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}))

_ROI = r"roi_heads\."
_NORM = r"(weight|bias|running_mean|running_var)"
_BODY = r"backbone\.body\."
_LAYER = _BODY + r"layer(\d)\.(\d+)\."
_RES = r"backbone.bottom_up.res{\1+1}.\2."
_RULES = (
    (_BODY + r"conv1\.weight", r"backbone.bottom_up.stem.conv1.weight"),
    (_BODY + r"bn1\." + _NORM, r"backbone.bottom_up.stem.conv1.norm.\1"),
    (_LAYER + r"conv(\d)\.weight", _RES + r"conv\3.weight"),
    (_LAYER + r"bn(\d)\." + _NORM, _RES + r"conv\3.norm.\4"),
    (_LAYER + r"downsample\.0\.weight", _RES + r"shortcut.weight"),
    (_LAYER + r"downsample\.1\." + _NORM, _RES + r"shortcut.norm.\3"),
    # Each convolution of the FPN and the heads is "N.weight" in old files and "N.0.weight" in new ones,
    # with its BatchNorm, in v2 models, at "N.1".
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"backbone.fpn_lateral{\1+2}.\2"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\." + _NORM, r"backbone.fpn_lateral{\1+2}.norm.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"backbone.fpn_output{\1+2}.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\." + _NORM, r"backbone.fpn_output{\1+2}.norm.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn\.head\.conv\.(\d)\.0\.(weight|bias)", r"proposal_generator.rpn_head.conv.conv\1.\2"),
    (r"rpn\.head\.cls_logits\.(weight|bias)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn\.head\.bbox_pred\.(weight|bias)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (_ROI + r"box_head\.fc(6|7)\.(weight|bias)", r"roi_heads.box_head.fc{\1-5}.\2"),
    (_ROI + r"box_head\.(\d)\.0\.weight", r"roi_heads.box_head.conv{\1+1}.weight"),
    (_ROI + r"box_head\.(\d)\.1\." + _NORM, r"roi_heads.box_head.conv{\1+1}.norm.\2"),
    # v2: 4 convolutions, flatten, then the only fully connected layer.
    (_ROI + r"box_head\.5\.(weight|bias)", r"roi_heads.box_head.fc1.\1"),
    (_ROI + r"box_predictor\.(cls_score|bbox_pred)\.(weight|bias)", r"roi_heads.box_predictor.\1.\2"),
    (_ROI + r"mask_head\.mask_fcn(\d)\.(weight|bias)", r"roi_heads.mask_head.mask_fcn\1.\2"),
    (_ROI + r"mask_head\.(\d)\.0\.(weight|bias)", r"roi_heads.mask_head.mask_fcn{\1+1}.\2"),
    (_ROI + r"mask_head\.(\d)\.1\." + _NORM, r"roi_heads.mask_head.mask_fcn{\1+1}.norm.\2"),
    (_ROI + r"mask_predictor\.conv5_mask\.(weight|bias)", r"roi_heads.mask_head.deconv.\1"),
    (_ROI + r"mask_predictor\.mask_fcn_logits\.(weight|bias)", r"roi_heads.mask_head.predictor.\1"),
    # A ReLU stands between two convolutions, so their numbers are even.
    (_ROI + r"keypoint_head\.(\d+)\.(weight|bias)", r"roi_heads.keypoint_head.conv_fcn{\1//2+1}.\2"),
    (
        _ROI + r"keypoint_predictor\.kps_score_lowres\.(weight|bias)",
        r"roi_heads.keypoint_head.score_lowres.\1",
    ),
)
_D2_BN_EPS = 1e-5


def convert_torchvision(
    state_dict: Mapping[str, Tensor], *, bn_eps: float | None = None, labels: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """State dict of a torchvision detector -> the same weights under Detectron2's names and class order.

    Args:
        state_dict: of {fasterrcnn,maskrcnn,keypointrcnn}_resnet50_fpn, any depth, or of their _v2 variants.
        bn_eps: epsilon of the source's backbone BatchNorm. Default: 0 where it is frozen, as torchvision
            sets for its published v1 weights and what is fine-tuned from them; 1e-5 where it learns (v2, or
            trained from scratch). Give 1e-5 for a v1 model trained from an ImageNet backbone.
        labels: torchvision's labels to keep, in the order of Detectron2's classes. Default: COCO's 80 where
            the predictor has 91 rows, all but the background otherwise.

    Returns:
        The state dict of Detectron2's model with `len(labels)` classes; build it with
        `use_torchvision` of configs/common/models/torchvision.py.

    Raises:
        ValueError: a name that no such model has, or labels outside the predictor.
    """
    # Counted by a BatchNorm that learns. No count is kept: Detectron2's frozen one has none, torch's takes 0.
    counted = {name for name in state_dict if name.endswith("num_batches_tracked")}
    state = rename({k: v for k, v in state_dict.items() if k not in counted}, _RULES, "torchvision")
    # One convolution in the RPN head has no number in Detectron2.
    if not any(name.startswith("proposal_generator.rpn_head.conv.conv1.") for name in state):
        state = {k.replace("rpn_head.conv.conv0.", "rpn_head.conv."): v for k, v in state.items()}
    if bn_eps is None:
        bn_eps = _D2_BN_EPS if counted else 0.0
    _match_bn_eps(state, bn_eps)
    _select_classes(state, labels)
    return state


def _match_bn_eps(state: dict[str, Tensor], eps: float) -> None:
    """Scales the backbone's BatchNorm weights so that epsilon 1e-5 gives what `eps` gave."""
    for name in [n for n in state if n.startswith("backbone.bottom_up.") and n.endswith("running_var")]:
        scale = ((state[name].double() + _D2_BN_EPS) / (state[name].double() + eps)).sqrt()
        weight = name.replace("running_var", "weight")
        state[weight] = (state[weight].double() * scale).to(state[weight].dtype)


def _select_classes(state: dict[str, Tensor], labels: Sequence[int] | None) -> None:
    """Moves the background from the first row of the predictors to where Detectron2 has it, if anywhere."""
    rows = state["roi_heads.box_predictor.cls_score.weight"].shape[0]
    if labels is None:
        labels = COCO_IDS if rows == 91 else range(1, rows)
    selected = torch.as_tensor(list(labels))
    if len(selected) == 0 or selected.min() < 1 or selected.max() >= rows:
        raise ValueError(f"labels must be between 1 and {rows - 1}, got {selected.tolist()}")
    for part in ("weight", "bias"):
        name = f"roi_heads.box_predictor.cls_score.{part}"
        state[name] = torch.cat([state[name][selected], state[name][:1]])
        name = f"roi_heads.box_predictor.bbox_pred.{part}"
        state[name] = state[name].unflatten(0, (rows, 4))[selected].flatten(0, 1)
        name = f"roi_heads.mask_head.predictor.{part}"
        if name in state:
            state[name] = state[name][selected]
