"""Every kind of R-CNN in Detectron2's zoo, by the names of this plugin's components.

The zoo's YAML files are not part of this repository. Without them the settings that tell them apart are
stated here; with DETECTRON2_CHECKOUT, the path of a checkout of Detectron2, its own files are loaded and
built as well. Models are built without memory for their weights, on PyTorch's meta device.
"""

import os
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

import mrcnn_plugin.projects.cascade_mask_rcnn
from mrcnn_plugin.config import load_config
from mrcnn_plugin.modeling import ROIPooler

#: Detectron2's component -> this plugin's.
NAMES = {
    "GeneralizedRCNN": "MaskRCNN",
    "StandardROIHeads": "MaskRCNNROIHeads",
    "Res5ROIHeads": "MaskRCNNC4ROIHeads",
    "CascadeROIHeads": "CascadeMaskRCNNROIHeads",
    "MaskRCNNConvUpsampleHead": "FCNMaskHead",
    "KRCNNConvDeconvUpsampleHead": "OneHotKeypointHead",
}
CASCADE = {"ROI_HEADS.NAME": "CascadeROIHeads", "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}
DEFORMABLE = {"RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True]}
#: ResNeXt; the depth, 101 or 152 in the zoo, repeats blocks and is left at 50 here.
GROUPED = {"RESNETS.STRIDE_IN_1X1": False, "RESNETS.NUM_GROUPS": 32, "RESNETS.WIDTH_PER_GROUP": 8}


def norm(name, convolutions=4):
    keys = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
    head = {"ROI_BOX_HEAD.NUM_CONV": convolutions, "ROI_BOX_HEAD.NUM_FC": 1}
    return {**{f"{key}.NORM": name for key in keys}, **head}


#: What a file of the zoo states beyond its base (C4, DC5 or FPN), all under MODEL.
VARIANTS = {
    "C4": ("C4", {}),
    "C4 of Pascal VOC": ("C4", {"MASK_ON": False, "ROI_HEADS.NUM_CLASSES": 20}),
    "DC5": ("DC5", {}),
    "DC5, boxes": ("DC5", {"MASK_ON": False}),
    "FPN": ("FPN", {}),
    "FPN, boxes": ("FPN", {"MASK_ON": False}),
    "FPN, ResNeXt": ("FPN", GROUPED),
    "FPN, GIoU": ("FPN", {"ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou", "RPN.BBOX_REG_LOSS_TYPE": "giou"}),
    "FPN, agnostic": (
        "FPN",
        {"ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True, "ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True},
    ),
    "FPN, group normalisation": ("FPN", {**norm("GN"), "RESNETS.STRIDE_IN_1X1": False}),
    "FPN, synchronised normalisation": ("FPN", norm("SyncBN")),
    "FPN, deformable": ("FPN", DEFORMABLE),
    "FPN, deformable and modulated": ("FPN", {**DEFORMABLE, "RESNETS.DEFORM_MODULATED": True}),
    "FPN, cascade": ("FPN", CASCADE),
    "FPN, cascade, ResNeXt, deformable": ("FPN", {**CASCADE, **GROUPED, **DEFORMABLE}),
    "FPN, keypoints": ("FPN", {"MASK_ON": False, "KEYPOINT_ON": True, "ROI_HEADS.NUM_CLASSES": 1}),
    "FPN, LVIS v1": ("FPN", {"ROI_HEADS.NUM_CLASSES": 1203, "ROI_HEADS.SCORE_THRESH_TEST": 0.0001}),
    "FPN, Cityscapes": ("FPN", {"ROI_HEADS.NUM_CLASSES": 8}),
    "Fast R-CNN": (
        "FPN",
        {"MASK_ON": False, "LOAD_PROPOSALS": True, "PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"},
    ),
    "panoptic FPN": ("FPN", {"META_ARCHITECTURE": "PanopticFPN"}),
}


def base(kind):
    """Detectron2's defaults, which are C4's, changed as the zoo's two other bases change them."""
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    if kind == "C4":
        cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
        return cfg
    stages = ["res2", "res3", "res4", "res5"] if kind == "FPN" else ["res5"]
    pooled = ["p2", "p3", "p4", "p5"] if kind == "FPN" else stages
    cfg.MODEL.RESNETS.OUT_FEATURES = stages
    cfg.MODEL.ROI_HEADS.update(NAME="StandardROIHeads", IN_FEATURES=pooled)
    cfg.MODEL.RPN.IN_FEATURES = [*pooled, "p6"] if kind == "FPN" else pooled
    cfg.MODEL.ROI_BOX_HEAD.update(NAME="FastRCNNConvFCHead", NUM_FC=2, POOLER_RESOLUTION=7)
    cfg.MODEL.ROI_MASK_HEAD.update(NUM_CONV=4, POOLER_RESOLUTION=14)
    if kind == "FPN":
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.FPN.IN_FEATURES = stages
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    else:
        cfg.MODEL.RESNETS.RES5_DILATION = 2
    return cfg


def by_our_names(cfg):
    """A copy of a config with this plugin's components wherever it names Detectron2's."""
    cfg = cfg.clone()
    cfg.defrost()
    mrcnn_plugin.add_config(cfg)
    model = cfg.MODEL
    for node, key in (
        (model, "META_ARCHITECTURE"),
        (model.ROI_HEADS, "NAME"),
        (model.ROI_MASK_HEAD, "NAME"),
        (model.ROI_KEYPOINT_HEAD, "NAME"),
    ):
        node[key] = NAMES.get(node[key], node[key])
    return cfg


def built(cfg):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def ours_with_the_parameters_of_detectron2s(cfg):
    models = [built(one) for one in (cfg, by_our_names(cfg))]
    shapes = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]
    return models[1]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_of_the_zoo_has_the_same_parameters_by_our_names(variant):
    kind, settings = VARIANTS[variant]
    cfg = base(kind)
    cfg.merge_from_list([part for key, value in settings.items() for part in (f"MODEL.{key}", value)])
    model = ours_with_the_parameters_of_detectron2s(cfg)
    poolers = [module for name, module in model.named_modules() if name.endswith("pooler")]
    assert poolers
    assert all(isinstance(pooler, ROIPooler) for pooler in poolers)


CHECKOUT = os.environ.get("DETECTRON2_CHECKOUT")


def zoo_files():
    folder = Path(CHECKOUT or "") / "configs"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml")) if CHECKOUT else []


@pytest.mark.skipif(not CHECKOUT, reason="DETECTRON2_CHECKOUT names no checkout of Detectron2")
@pytest.mark.parametrize("file", zoo_files())
def test_a_file_of_the_zoo_loads_and_its_model_has_the_same_parameters(file):
    cfg = load_config(str(Path(CHECKOUT or "") / "configs" / file)).raw
    assert ours_with_the_parameters_of_detectron2s(cfg) is not None
