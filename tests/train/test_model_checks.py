"""What would starve a model, or let its first step fail, is found before it is trained."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_runs import TINY

from mrcnn_plugin.config import load_config
from mrcnn_plugin.errors import ConfigError
from mrcnn_plugin.train.model_checks import check_anchors, check_frozen_norms, check_scheduler

ANCHORS = "model.proposal_generator.anchor_generator"


def tiny(*overrides: str):
    return load_config(str(TINY), ["+train.device=cpu", *overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [f"{ANCHORS}.sizes=[[12],[24],[48]]"],
            rf"{ANCHORS} \(DefaultAnchorGenerator\): Got sizes of length 3 in anchor generator, but",
        ),
        (
            [f"{ANCHORS}.sizes=[[12,13],[24,25]]"],
            r"head.num_anchors is 1, but the anchor generator gives 2, 2",
        ),
        ([f"{ANCHORS}.strides=[8,16]"], r"strides are \[8, 16\], but the maps p2, p3 have \[4, 8\]"),
        (
            [f"{ANCHORS}.strides=[4,8,16]", f"{ANCHORS}.sizes=[[12],[24],[48]]"],
            r"has sizes or strides for 3 maps, but the RPN reads 2: p2, p3",
        ),
        (["model.proposal_generator.in_features=[p2,p9]"], "names 'p9', but the backbone gives p2, p3"),
        (["model.backbone.out_channels=-1"], r"model.backbone \(FPN\): "),
        (
            ["model.proposal_generator.nms_thresh=[[1]]", "model.roi_heads.num_classes=-9"],
            r"model\.roi_heads",
        ),
    ],
)
def test_a_model_that_does_not_fit_together_is_one_line_with_the_key(overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        check_anchors(tiny(*overrides).build_model())
    assert "\n" not in str(error.value)


def test_models_that_fit_together_pass():
    check_anchors(tiny().build_model())
    check_anchors(torch.nn.Linear(1, 1))


def test_anchors_of_a_cfgnode_name_the_section(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "MODEL: {DEVICE: cpu, RPN: {IN_FEATURES: [res4]}, ANCHOR_GENERATOR: {SIZES: [[32], [64]]}}"
    )
    with pytest.raises(ConfigError, match=r"MODEL.ANCHOR_GENERATOR \(DefaultAnchorGenerator\): Got sizes of"):
        load_config(str(tmp_path / "c.yaml")).build_model()
    with pytest.raises(ConfigError, match=r"MODEL: .*No object named 'nowhere' found in 'BACKBONE' registry"):
        load_config(str(tmp_path / "c.yaml"), ["MODEL.BACKBONE.NAME=nowhere"]).build_model()


def frozen(stem: str = "FrozenBN"):
    stages = [f"model.backbone.bottom_up.stages.{i}.norm=FrozenBN" for i in (0, 1)]
    return tiny(f"model.backbone.bottom_up.stem.norm={stem}", *stages).build_model()


def test_frozen_norms_on_random_weights_are_refused_with_both_ways_out():
    model = frozen()
    with pytest.raises(ConfigError, match=r"train.init_checkpoint=FILE, or train the norms .*stem.norm=BN"):
        check_frozen_norms(model, "train.init_checkpoint")


def test_frozen_norms_with_weights_of_their_own_pass():
    check_frozen_norms(tiny().build_model(), "key")
    # As MSRA's weights: scale and shift alone.
    model = frozen()
    model.backbone.bottom_up.stem.conv1.norm.weight.fill_(0.5)
    check_frozen_norms(model, "key")
    # As torchvision's: statistics.
    model = frozen()
    model.backbone.bottom_up.stem.conv1.norm.running_mean.fill_(0.5)
    check_frozen_norms(model, "key")


def test_a_scheduler_that_ends_before_the_run():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    check_scheduler(scheduler, 10, "lr_multiplier")
    with pytest.raises(ConfigError, match="lr_multiplier is for 10 iterations, but the run has 11"):
        check_scheduler(scheduler, 11, "lr_multiplier")
    check_scheduler(object(), 11, "lr_multiplier")
