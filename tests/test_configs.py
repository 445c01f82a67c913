"""Every config that is installed: it has the shape that Detectron2's tools expect, trains, predicts."""

import copy
import functools
import os
import re

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import hooks
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import ParamScheduler
from helpers.training import synthetic_inputs
from omegaconf import OmegaConf

from mrcnn_plugin import model_zoo
from mrcnn_plugin.modeling import TimmBackbone

CONFIGS = model_zoo.list_configs()
# Of another config's model but for its depth, its weights, its data or its schedule.
SAME_MODEL = re.compile(
    r"_R_101_|_R_50_\w+_3x|(paper|FineTune)/\w+_R_50_|R_50_FPN_coco|htc_R_50_FPN_1x|mask_rcnn_swin_S_"
)
MODELS = [name for name in CONFIGS if not SAME_MODEL.search(name)]
TRAIN_KEYS = {
    "amp",
    "checkpointer",
    "ddp",
    "device",
    "eval_period",
    "init_checkpoint",
    "log_period",
    "max_iter",
    "output_dir",
}


@functools.cache
def _loaded(name):
    return model_zoo.get_config(name)


def load(name):
    """A copy of the config, which is read once: reading takes many times as long."""
    return copy.deepcopy(_loaded(name))


@functools.cache
def description(name):
    """The model's config once it has been shrunk, all interpolations resolved."""
    return repr(OmegaConf.to_container(shrink(load(name)).model, resolve=True))


def nodes(cfg):
    """`cfg` and all that is in it, written out: interpolations are not followed."""
    yield cfg
    for key in cfg if OmegaConf.is_dict(cfg) else range(len(cfg)):
        if not OmegaConf.is_interpolation(cfg, key) and OmegaConf.is_config(cfg[key]):
            yield from nodes(cfg[key])


def shrink(cfg):
    """Few proposals, RoIs and layers: what is tested is that the parts fit together."""
    model = cfg.model
    for node in filter(OmegaConf.is_dict, nodes(model)):
        if node.get("depth", 0) > 50:
            node.depth = 50
        if "depths" in node:
            node.depths = [2] * len(node.depths)
        # That of torch runs on GPUs only.
        if node.get("norm") == "SyncBN":
            node.norm = "BN"
    model.proposal_generator.update(pre_nms_topk=(50, 50), post_nms_topk=(20, 8), batch_size_per_image=16)
    model.roi_heads.batch_size_per_image = 8
    for predictor in box_predictors(cfg):
        predictor.update(test_score_thresh=0.0, test_topk_per_image=4)
    return cfg


def box_predictors(cfg):
    """The one of the RoI heads, or those of a cascade's stages."""
    heads = cfg.model.roi_heads
    if "box_predictors" in heads:
        return list(heads.box_predictors)
    return [heads.box_predictor] if OmegaConf.is_dict(heads.get("box_predictor")) else []


def is_project(name):
    return name.startswith("projects/")


def has_head(model, kind):
    return getattr(model.roi_heads, f"{kind}_on", False)


def test_every_model_is_one_of_those_that_train():
    descriptions = {description(name) for name in MODELS}
    assert [name for name in CONFIGS if description(name) not in descriptions] == []
    # And none is trained twice.
    assert len(descriptions) == len(MODELS)


@pytest.mark.parametrize("cfg_name", MODELS)
def test_trains_and_predicts(cfg_name):
    cfg = shrink(load(cfg_name))
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    masks, keypoints = has_head(model, "mask"), has_head(model, "keypoint")
    inputs = synthetic_inputs(
        [(64, 64), (64, 96)],
        num_classes=cfg.model.roi_heads.num_classes,
        masks=masks,
        keypoints=keypoints,
        num_keypoints=model.roi_heads.keypoint_head.num_keypoints if keypoints else 17,
    )
    if cfg.dataloader.train.mapper.get("instance_mask_format") == "bitmask":
        for instances in (image["instances"] for image in inputs):
            instances.gt_masks = BitMasks.from_polygon_masks(instances.gt_masks, *instances.image_size)
    # Untrained, a ResNet without batch statistics magnifies its input a thousand times.
    model.pixel_std.fill_(1000.0)
    with EventStorage():
        losses = model(inputs)
    expected = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    expected |= {f"loss_{k}" for k in ("mask", "keypoint") if has_head(model, k)}
    if is_project(cfg_name):
        # Stages and further branches have losses of their own, tested with the project.
        assert {"loss_rpn_cls", "loss_rpn_loc"} < set(losses)
        assert any("mask" in name for name in losses)
    else:
        assert expected == set(losses)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"][:3]]
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, optimizer.param_groups[0]["params"]))

    with torch.no_grad():
        results = model.eval()(inputs)
    for output, image in zip(results, inputs):
        instances = output["instances"]
        assert isinstance(instances, Instances)
        assert instances.image_size == (image["height"], image["width"])
        assert instances.has("pred_masks") == masks
        assert instances.has("pred_keypoints") == keypoints
        if masks:
            assert instances.pred_masks.shape == (len(instances), *instances.image_size)


def _iterations(schedule):
    """The iterations that a schedule of steps was made for; a cosine's is any number."""
    milestones = schedule.get("scheduler", {}).get("milestones")
    return milestones[-1] if milestones else None


@pytest.mark.parametrize("name", CONFIGS)
class TestShape:
    """What Detectron2's tools/lazyconfig_train_net.py reads."""

    def test_model_at_full_size(self, name):
        """Built without memory; the name says which backbone."""
        cfg = load(name)
        with torch.device("meta"):
            model = instantiate(cfg.model)
        depth = re.search(r"_[RX]_(\d+)_", name)
        bottom_up = getattr(model.backbone, "bottom_up", model.backbone)
        if isinstance(bottom_up, TimmBackbone):
            assert f"_{bottom_up.name.removeprefix('tf_')}_" in name, "a config's name tells its backbone"
            return
        if depth is None:
            assert is_project(name), "the name of a config tells its ResNet"
            return
        convolutions = sum(
            isinstance(m, torch.nn.Conv2d) and "shortcut" not in n for n, m in bottom_up.named_modules()
        )
        assert int(depth[1]) - 10 <= convolutions <= int(depth[1])
        assert any(m.groups > 1 for m in model.modules() if isinstance(m, torch.nn.Conv2d)) == ("_X_" in name)

    def test_sections(self, name):
        """Nothing else of the file, such as a helper's node, is taken for a part of the config."""
        assert set(load(name)) == {"dataloader", "lr_multiplier", "model", "optimizer", "train"}

    def test_optimizer(self, name):
        cfg = load(name)
        cfg.optimizer.params.model = torch.nn.Linear(2, 2)
        optimizer = instantiate(cfg.optimizer)
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert {group["lr"] for group in optimizer.param_groups} == {cfg.optimizer.lr}

    def test_train(self, name):
        train = load(name).train
        assert set(train) >= TRAIN_KEYS
        assert train.device == ("cuda" if torch.cuda.is_available() else "cpu")
        assert set(train.checkpointer) == {"period", "max_to_keep"}
        assert 0 < train.eval_period <= train.max_iter

    def test_schedule(self, name):
        cfg = load(name)
        schedule = instantiate(cfg.lr_multiplier)
        assert isinstance(schedule, ParamScheduler)
        rates = [schedule(i / 100) for i in range(100)]
        assert max(rates) == pytest.approx(1, abs=1e-3)
        assert _iterations(cfg.lr_multiplier) in (None, cfg.train.max_iter)
        # Warmed up from a small rate, and down again at the end.
        assert rates[0] < 0.1
        assert rates[-1] < 0.11
        hooks.LRScheduler(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), schedule)

    def test_data(self, name):
        """The loaders, without their data: mappers, augmentations and the names of the sets."""
        cfg = load(name)
        keypoints = "keypoint_head" in cfg.model.roi_heads
        for split in ("train", "test"):
            loader = cfg.dataloader[split]
            # Those that fine-tune take data of one's own.
            assert bool(loader.dataset.names) != (cfg.train.get("recipe") == "fine_tune")
            loader.dataset.names = loader.dataset.names or "keypoints_coco_2017_train"
            mapper = instantiate(loader.mapper)
            assert mapper.is_train == (split == "train")
            assert mapper.image_format == cfg.model.input_format
            assert 0 < loader.num_workers <= max(4, os.cpu_count())
        train = instantiate(cfg.dataloader.train.mapper)
        assert train.use_instance_mask == ("mask_head" in cfg.model.roi_heads)
        assert train.use_keypoint == keypoints
        assert (train.keypoint_hflip_indices is not None) == keypoints
        assert cfg.dataloader.evaluator.dataset_name == cfg.dataloader.test.dataset.names

    def test_saves_as_yaml_and_loads(self, name, tmp_path):
        cfg = load(name)
        LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
        assert sorted(os.listdir(tmp_path)) == ["config.yaml"]
        saved = LazyConfig.load(str(tmp_path / "config.yaml"))
        assert saved.train == cfg.train
        assert saved.model.roi_heads.num_classes == cfg.model.roi_heads.num_classes

    def test_one_override_changes_the_classes_of_every_head(self, name):
        cfg = load(name)
        LazyConfig.apply_overrides(cfg, ["model.roi_heads.num_classes=3"])
        predictors = box_predictors(cfg)
        assert predictors
        for predictor in predictors:
            assert predictor.num_classes == 3
        if OmegaConf.is_dict(cfg.model.roi_heads.get("mask_head")):
            # A class-agnostic mask head stays so.
            expected = 1 if "agnostic" in name else 3
            assert cfg.model.roi_heads.mask_head.num_classes == expected


def test_gradients_are_clipped_to_the_norm():
    from mrcnn_plugin.config.optimizer import build_optimizer

    weights = [torch.ones(4, requires_grad=True), torch.ones(5, requires_grad=True)]
    optimizer = build_optimizer("torch.optim.SGD", weights, clip_norm=0.6, lr=1.0)
    for weight in weights:
        weight.grad = torch.full_like(weight, 10.0)
    optimizer.step()
    # Nine equal entries of norm 0.6: 0.2 each.
    assert torch.cat(weights).tolist() == pytest.approx([0.8] * 9, abs=1e-5)
    for weight in weights:
        weight.grad = torch.full_like(weight, 0.01)
    optimizer.step()
    assert torch.cat(weights).tolist() == pytest.approx([0.79] * 9, abs=1e-5)


@pytest.mark.parametrize("clip_norm", [None, 0])
def test_no_clipping(clip_norm):
    from mrcnn_plugin.config.optimizer import build_optimizer

    weight = torch.ones(1, requires_grad=True)
    weight.grad = torch.full_like(weight, 10.0)
    build_optimizer(torch.optim.SGD, [weight], clip_norm=clip_norm, lr=1.0).step()
    assert weight.item() == -9


def test_wrong_optimizers_are_named():
    from mrcnn_plugin.config.optimizer import build_optimizer

    weight = [torch.ones(1, requires_grad=True)]
    with pytest.raises(ValueError, match=r"optimizer must be .*'torch\.nn\.Linear'"):
        build_optimizer("torch.nn.Linear", weight, lr=1.0)
    with pytest.raises(ValueError, match=r"clip_norm must be positive.*got -1"):
        build_optimizer("torch.optim.SGD", weight, clip_norm=-1, lr=1.0)
