"""RoI heads from Detectron2's CfgNode."""

import pytest
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec

import mrcnn_plugin
from mrcnn_plugin.modeling import MaskRCNNC4ROIHeads, MaskRCNNROIHeads, poolers
from mrcnn_plugin.projects.cascade_mask_rcnn import CascadeMaskRCNNROIHeads, add_cascade_config

MAPS = {f"p{level}": ShapeSpec(channels=8, stride=2**level) for level in (2, 3)}
BRANCHES = ("BOX", "MASK", "KEYPOINT")


def config(**keys):
    """Keys of small heads on two maps; `keys` are set below MODEL, "__" for a dot."""
    cfg = get_cfg()
    mrcnn_plugin.add_config(cfg)
    add_cascade_config(cfg)
    model = cfg.MODEL
    model.MASK_ON = model.KEYPOINT_ON = True
    model.ROI_HEADS.IN_FEATURES, model.ROI_HEADS.NUM_CLASSES = list(MAPS), 3
    model.ROI_BOX_HEAD.NAME, model.ROI_BOX_HEAD.NUM_FC, model.ROI_BOX_HEAD.FC_DIM = "FastRCNNConvFCHead", 1, 4
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.CONV_DIM = "FCNMaskHead", 4
    model.ROI_KEYPOINT_HEAD.CONV_DIMS = [4]
    for name, value in keys.items():
        cfg.merge_from_list([f"MODEL.{name.replace('__', '.')}", value])
    return cfg


@pytest.fixture
def built(monkeypatch):
    """The types of all poolers that are built, Detectron2's among them."""
    types = []
    parent = poolers.ROIPooler.__mro__[1]
    init = parent.__init__

    def record(self, *args, **kwargs):
        types.append(type(self))
        init(self, *args, **kwargs)

    monkeypatch.setattr(parent, "__init__", record)
    return types


@pytest.mark.parametrize("heads", [MaskRCNNROIHeads, CascadeMaskRCNNROIHeads])
def test_each_pooler_is_built_once_as_its_branch_says(heads, built):
    types = {"BOX": "ROIAlignV2Max", "MASK": "ROIWarp", "KEYPOINT": "ROIPool"}
    keys = {f"ROI_{branch}_HEAD__POOLER_TYPE": types[branch] for branch in BRANCHES}
    keys |= {f"ROI_{branch}_HEAD__POOLER_RESOLUTION": 2 + 2 * i for i, branch in enumerate(BRANCHES)}
    model = heads(config(**keys), MAPS)
    assert built == [mrcnn_plugin.modeling.ROIPooler] * 3
    for i, branch in enumerate(BRANCHES):
        pooler = getattr(model, f"{branch.lower()}_pooler")
        assert (pooler.pooler_type, pooler.output_size) == (types[branch], (2 + 2 * i,) * 2)
        assert pooler.scales == [1 / 4, 1 / 8]


def test_branches_that_are_off_are_not_built(built):
    model = MaskRCNNROIHeads(config(MASK_ON=False, KEYPOINT_ON=False), MAPS)
    assert len(built) == 1
    assert not model.mask_on
    assert not model.keypoint_on


def test_c4_builds_one_pooler(built):
    cfg = config(KEYPOINT_ON=False, ROI_HEADS__IN_FEATURES=["p3"], ROI_BOX_HEAD__POOLER_TYPE="ROIWarpMax")
    model = MaskRCNNC4ROIHeads(cfg, {"p3": ShapeSpec(channels=1024, stride=8)})
    assert built == [mrcnn_plugin.modeling.ROIPooler]
    assert model.pooler.pooler_type == "ROIWarpMax"
    assert model.mask_head.deconv.in_channels == 2048


def test_a_mask_head_for_each_stage_of_a_cascade(built):
    cfg = config(KEYPOINT_ON=False, ROI_BOX_CASCADE_HEAD__MASK_STAGES=[0, 2])
    model = CascadeMaskRCNNROIHeads(cfg, MAPS)
    assert len(built) == 2
    assert len({id(head) for head in model.mask_heads}) == len(model.mask_heads) == 2
    assert [matcher.thresholds[1] for matcher in model.proposal_matchers] == [0.5, 0.6, 0.7]
    assert [one.box2box_transform.weights[0] for one in model.box_predictor] == [10, 20, 30]


@pytest.mark.parametrize(
    ("heads", "keys", "message"),
    [
        (MaskRCNNC4ROIHeads, {}, "KEYPOINT_ON must be False"),
        (
            MaskRCNNC4ROIHeads,
            {"KEYPOINT_ON": False},
            r"IN_FEATURES must name one map for C4, got .*'p2', 'p3'",
        ),
        (MaskRCNNROIHeads, {"ROI_BOX_HEAD__POOLER_TYPE": ""}, "Unknown pooler type"),
        (
            CascadeMaskRCNNROIHeads,
            {"ROI_BOX_CASCADE_HEAD__IOUS": [0.5, 0.6]},
            "one entry per stage, got 3 and 2",
        ),
        (CascadeMaskRCNNROIHeads, {"ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": False}, "must be True"),
        (
            CascadeMaskRCNNROIHeads,
            {"ROI_BOX_CASCADE_HEAD__IOUS": [0.4, 0.5, 0.6]},
            r"must begin with .*, got \[0\.4, 0\.5, 0\.6\] and \[0\.5\]",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named(heads, keys, message):
    with pytest.raises(ValueError, match=message):
        heads(config(**keys), MAPS)


def test_maps_of_different_channels_are_named():
    shapes = {"p2": ShapeSpec(channels=8, stride=4), "p3": ShapeSpec(channels=16, stride=8)}
    with pytest.raises(ValueError, match=r"equally many channels, got \{'p2': 8, 'p3': 16\}"):
        MaskRCNNROIHeads(config(), shapes)
