"""The fine-tuning recipe: settings by hand-computed values, and that overrides win."""

from __future__ import annotations

import json

import pytest
from detectron2.data import MetadataCatalog
from helpers.tiny_runs import TINY, tiny_arguments, train_in_process

from mrcnn_plugin import model_zoo
from mrcnn_plugin.config import fit_to_dataset, fit_to_device, load_config
from mrcnn_plugin.config.fine_tuning import Choice, FineTuning, measure_bfloat16_gain, table_of
from mrcnn_plugin.data import CocoSummary
from mrcnn_plugin.data.coco_summary import ClassCounts, quantiles
from mrcnn_plugin.errors import ConfigError


def summary_of(sizes=(16.0,), instances=None, classes=None, images=100, empty=0, short_edge=256, densest=1):
    """Images of `short_edge` pixels at their shorter side, half as much longer; objects of `sizes` pixels."""
    classes = classes or {"thing": images - empty}
    return CocoSummary(
        [{"id": i, "name": name} for i, name in enumerate(classes)],
        [ClassCounts(images=n, instances=n if instances is None else instances) for n in classes.values()],
        images=images,
        empty_images=empty,
        densest=densest,
        short_edges=quantiles([short_edge]),
        aspect_ratios=quantiles([1.5]),
        relative_sizes=quantiles([size / short_edge for size in sizes]),
    )


def chosen(summary, device="cpu", **given) -> dict:
    return {choice.key: choice.value for choice in FineTuning(summary, device, **given).choices()}


TEST, TRAIN = (f"dataloader.{split}.mapper.augmentations.0" for split in ("test", "train"))
ANCHORS = "model.proposal_generator.anchor_generator.sizes"
DETECTIONS = "model.roi_heads.box_predictor.test_topk_per_image"


@pytest.mark.parametrize(
    ("short_edge", "size", "device", "expected"),
    [
        (256, 16, "cpu", 256),  # large enough as they are
        (256, 8, "cpu", 320),  # 16 / (8 / 256) = 512, more than a CPU is asked for
        (256, 8, "cuda", 512),
        (256, 4, "cuda", 512),  # 1024, but never more than twice the image
        (480, 100, "cpu", 320),
        (480, 100, "cuda", 480),
        (3000, 300, "cuda:1", 800),
        (64, 16, "cpu", 192),
        (300, 100, "cuda", 288),  # a multiple of 32
    ],
)
def test_input_size(short_edge, size, device, expected):
    settings = chosen(summary_of([size], short_edge=short_edge), device)
    assert settings[f"{TEST}.short_edge_length"] == expected
    assert settings[f"{TRAIN}.short_edge_length"][-1] == expected
    assert settings[f"{TEST}.max_size"] == settings[f"{TRAIN}.max_size"] == -(-1.5 * expected // 32) * 32


def test_sizes_in_training_are_a_little_smaller():
    settings = chosen(summary_of(short_edge=320, sizes=[32]))
    assert settings[f"{TRAIN}.short_edge_length"] == [256, 288, 320]


def test_anchors_lie_around_the_objects():
    # All objects of 64 pixels, in inputs of 256: 16, 32, 64, 128, 256.
    assert chosen(summary_of([64.0]))[ANCHORS] == [[16], [32], [64], [128], [256]]
    # 5% to 95%: 8 to 128 pixels.
    sizes = [8.0] * 10 + [128.0] * 10
    # The input is 320 / 256 as large: 10 to 160 pixels, whose middle is 40.
    assert chosen(summary_of(sizes))[ANCHORS] == [[10], [20], [40], [80], [160]]
    # C4 has all its sizes on one map.
    assert chosen(summary_of([64.0]), anchors=(3,))[ANCHORS] == [[32, 64, 128]]
    assert chosen(summary_of([1.0]))[ANCHORS][0] == [4], "not below the finest stride"


def test_schedule():
    settings = chosen(summary_of(images=420, empty=20))
    # 2400 images of 400: 6 epochs, 600 iterations of 4.
    assert settings["train.epochs"] == 6
    assert settings["train.max_iter"] == 600
    assert settings["lr_multiplier.lengths"] == [0.1, 0.9]
    assert settings["train.eval_period"] == settings["train.checkpointer.period"] == 150
    assert settings["optimizer.lr"] == pytest.approx(1e-3 / 2), "a quarter of 16 images"
    assert chosen(summary_of(images=8))["train.epochs"] == 100
    assert chosen(summary_of(images=5000))["train.epochs"] == 2
    cuda = chosen(summary_of(images=400), "cuda")
    assert (cuda["train.epochs"], cuda["train.max_iter"], cuda["optimizer.lr"]) == (100, 2500, 1e-3)


def test_schedule_of_what_is_given():
    settings = chosen(summary_of(images=10), epochs=2.5, batch_size=3)
    assert settings["train.max_iter"] == 9  # 25 images
    assert settings["dataloader.train.total_batch_size"] == 3
    settings = chosen(summary_of(images=400), max_iter=80)
    assert settings["lr_multiplier.lengths"] == [0.1, 0.9], "8 of 80"
    assert settings["train.eval_period"] == 20


@pytest.mark.parametrize(
    ("densest", "expected"), [(1, 100), (66, 100), (67, 150), (100, 150), (151, 250), (400, 600)]
)
def test_detections_follow_the_densest_image(densest, expected):
    settings = chosen(summary_of(densest=densest, instances=100))
    assert settings[DETECTIONS] == expected
    assert settings.get("dataloader.evaluator.max_dets_per_image", 100) == expected
    assert settings["model.proposal_generator.post_nms_topk"][1] >= 2 * expected


@pytest.mark.parametrize(("instances", "expected"), [(100, 64), (1000, 96), (3000, 256), (90000, 512)])
def test_rois_follow_the_number_of_instances(instances, expected):
    key = "model.roi_heads.batch_size_per_image"
    assert chosen(summary_of(instances=instances), "cuda")[key] == expected
    assert chosen(summary_of(instances=instances))[key] == min(expected, 128)


def test_precision_follows_the_measurement():
    key = "train.amp.enabled"
    assert key not in chosen(summary_of())
    assert key not in chosen(summary_of(), bfloat16_gain=1.4)
    assert chosen(summary_of(), bfloat16_gain=1.6)[key] is True
    assert chosen(summary_of(), "cuda")[key] is True


def test_the_gain_of_bfloat16_is_measured(monkeypatch):
    clock = iter(range(1000))
    # Every reading is a second after the one before: both take as long.
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert measure_bfloat16_gain() == 1.0


def test_rle_masks_are_read_as_bitmasks():
    key, summary = "dataloader.train.mapper.instance_mask_format", summary_of()
    assert key not in chosen(summary)
    summary.rle_mask = 1
    assert chosen(summary)[key] == "bitmask"


def test_a_single_iteration_has_no_warmup():
    assert chosen(summary_of(), max_iter=1)["lr_multiplier.lengths"] == [0.0, 1.0]
    assert chosen(summary_of(), max_iter=2)["lr_multiplier.lengths"] == [0.5, 0.5]


def test_rare_classes_are_repeated():
    key = "dataloader.train.sampler"
    assert key not in chosen(summary_of(classes={"a": 60, "b": 40}))
    assert key not in chosen(summary_of(classes={"a": 5})), "a single class is no rarer than another"
    settings = FineTuning(summary_of(classes={"a": 95, "b": 9, "c": 0}), "cpu").choices()
    choice = next(choice for choice in settings if choice.key == key)
    assert choice.value["repeat_thresh"] == 0.1
    assert choice.reason.endswith(": b"), "c is on no image"


def test_table():
    sampler = {"_target_": "a.sampler", "dataset": "${..dataset}", "repeat_thresh": 0.1}
    table = table_of([Choice("a.b", 0.00025, "so"), Choice("c", sampler, "rare"), Choice("d", [1, 2], "")])
    assert [line.split()[:2] for line in table.splitlines()[2:]] == [
        ["a.b", "0.00025"],
        ["c", "sampler(repeat_thresh=0.1)"],
        ["d", "[1,"],
    ]


def load(shapes, *overrides):
    names = [f"dataloader.train.dataset.names={shapes['train']}", "dataloader.test.dataset.names=null"]
    config = load_config(str(TINY), [*names, *overrides])
    fit_to_device(config, "cpu")
    fit_to_dataset(config)
    return config


def test_epochs_alone(shapes):
    config = load(shapes, "train.epochs=5")
    (choice,) = config.fit_to_data()
    # 6 images, 2 at once.
    assert (choice.key, choice.value) == ("train.max_iter", 15)
    assert config.max_iter == config.raw.train.max_iter == 15
    assert config.raw.optimizer.lr == 0.01, "nothing else changes"
    assert config.fit_to_data() == []


def test_overrides_win(shapes, tmp_path):
    given = ["train.recipe=fine_tune", f"train.output_dir={tmp_path}", "optimizer.lr=0.1", "train.epochs=3"]
    config = load(shapes, *given, "dataloader.train.total_batch_size=3")
    choices = {choice.key: choice for choice in config.fit_to_data()}
    assert config.raw.optimizer.lr == 0.1
    assert choices["optimizer.lr"].reason == "given"
    held_out = json.loads((tmp_path / "split" / "held_out.json").read_text())
    trained = json.loads((tmp_path / "split" / "train.json").read_text())
    assert (len(trained["images"]), len(held_out["images"])) == (5, 1)
    assert config.train_names == [choices["dataloader.train.dataset.names"].value]
    assert config.test_names == [choices["dataloader.test.dataset.names"].value]
    assert config.batch_size == 3
    assert config.max_iter == 5, "3 epochs of 5 images, 3 at once"
    # The tiny config has no augmentation of the size to set.
    assert f"{TEST}.short_edge_length" not in choices


def test_every_stage_of_a_cascade_is_set(shapes, tmp_path, monkeypatch):
    folder = model_zoo.project_root() / "cascade_mask_rcnn/configs/FineTune"
    given = [f"dataloader.train.dataset.names={shapes['train']}", f"train.output_dir={tmp_path}"]
    config = load_config(str(folder / "cascade_mask_rcnn_efficientnet_lite0_FPN.py"), given)
    fit_to_device(config, "cpu")
    monkeypatch.setattr(config, "_training_summary", lambda: summary_of(densest=150))
    choices = {choice.key: choice.value for choice in config.fit_to_data()}
    for stage in range(3):
        assert choices[f"model.roi_heads.box_predictors.{stage}.test_topk_per_image"] == 250
        assert config.raw.model.roi_heads.box_predictors[stage].test_topk_per_image == 250
    assert config.expected_of_data().max_dets == 250


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.recipe=finetune", "train.recipe must be one of 'fine_tune', or null, got 'finetune'"),
        ("train.epochs=0", "train.epochs must be positive, got 0"),
        ("+train.epochs=-1", "train.epochs must be positive, got -1"),
    ],
)
def test_what_does_not_exist_is_refused(shapes, override, message):
    with pytest.raises(ConfigError, match=message):
        load(shapes, override).fit_to_data()


def test_a_run_by_the_recipe(shapes, tmp_path, caplog):
    line = tiny_arguments(shapes, tmp_path, "train.recipe=fine_tune", "train.epochs=1", "seed=1")
    line = [word for word in line if not word.startswith(("dataloader.test", "seed"))]
    assert train_in_process([*line, "dataloader.test.dataset.names=null"]) == 0
    log = (tmp_path / "log.txt").read_text()
    assert "no test set was given: a fifth of coco:" in log
    saved = load_config(str(tmp_path / "config.yaml"), ["train.max_iter=1234"])
    assert saved.fit_to_data() == [], "what was chosen is in the file"
    assert saved.max_iter == 1234
    assert saved.test_names == [f"coco:{tmp_path}/split/held_out.json:{_image_root(shapes)}"]
    assert json.loads((tmp_path / "results.json").read_text())["results"].keys() == {"bbox", "segm"}


def _image_root(shapes) -> str:
    return MetadataCatalog.get(shapes["train"]).image_root
