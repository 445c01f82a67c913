"""The YAML route: a CfgNode config through the same main()."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage
from helpers.tiny_runs import metrics_of, train_in_process

from mrcnn_plugin.config import fit_to_dataset, load_config
from mrcnn_plugin.errors import ConfigError

_TINY = {
    "MODEL": {
        "META_ARCHITECTURE": "MaskRCNN",
        "MASK_ON": True,
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
        "RESNETS": {
            "DEPTH": 18,
            "RES2_OUT_CHANNELS": 64,
            "NORM": "BN",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "POST_NMS_TOPK_TEST": 20},
        "ROI_HEADS": {"NAME": "MaskRCNNROIHeads", "IN_FEATURES": ["p2", "p3"], "BATCH_SIZE_PER_IMAGE": 16},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16, "POOLER_RESOLUTION": 3},
        "ROI_MASK_HEAD": {
            "NAME": "FCNMaskHead",
            "NUM_CONV": 1,
            "CONV_DIM": 8,
            "POOLER_RESOLUTION": 4,
        },
    },
    "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64},
    "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 3, "CHECKPOINT_PERIOD": 100, "WARMUP_ITERS": 2},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SEED": 3,
}


@pytest.fixture
def yaml_file(tmp_path, shapes):
    config = {**_TINY, "DATASETS": {"TRAIN": [shapes["train"]], "TEST": [shapes["val"]]}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_train_resume_and_evaluate(yaml_file, tmp_path):
    folder = tmp_path / "run"
    line = ["--config-file", str(yaml_file), "OUTPUT_DIR", str(folder)]
    assert train_in_process([*line, "SOLVER.BASE_LR=0.001"]) == 0
    metrics = metrics_of(folder)
    assert [m["iteration"] for m in metrics if "total_loss" in m] == [2]
    results = json.loads((folder / "results.json").read_text())
    assert results["iteration"] == 3
    assert results["results"].keys() == {"bbox", "segm"}
    assert (folder / "curves.png").exists()
    assert (folder / "predictions.png").exists()
    saved = load_config(str(folder / "config.yaml")).raw
    assert saved.SOLVER.BASE_LR == 0.001
    assert saved.MODEL.ROI_HEADS.NUM_CLASSES == 4, "the number of the data set's classes"

    assert train_in_process([*line, "SOLVER.BASE_LR=0.001", "SOLVER.MAX_ITER=5", "--resume"]) == 0
    assert [m["iteration"] for m in metrics_of(folder) if "total_loss" in m] == [2, 4]
    log = (folder / "log.txt").read_text()
    assert "a config that has changed:\n  SOLVER.MAX_ITER: 3 -> 5\n" in log


def test_unknown_key_in_the_file(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("SOLVER:\n  MAX_ITR: 3\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: Non-existent config key: SOLVER\.MAX_ITR") as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


def test_number_of_classes_is_the_datas_unless_given(yaml_file):
    config = load_config(str(yaml_file))
    (line,) = fit_to_dataset(config)
    assert line.startswith("MODEL.ROI_HEADS.NUM_CLASSES = 4, the classes of coco:")
    assert line.endswith(": circle, square, triangle, star")
    assert config.raw.MODEL.ROI_HEADS.NUM_CLASSES == 4

    config = load_config(str(yaml_file), ["MODEL.ROI_HEADS.NUM_CLASSES", "7"])
    assert fit_to_dataset(config) == []
    assert config.raw.MODEL.ROI_HEADS.NUM_CLASSES == 7


def test_yaml_without_a_mapping(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(str(path))


def test_defaults_are_detectron2s(yaml_file):
    assert load_config(str(yaml_file)).raw.SOLVER.MOMENTUM == get_cfg().SOLVER.MOMENTUM


def test_float32_precision(yaml_file, tmp_path):
    """A key of Detectron2's main branch, which 0.6 lacks."""
    before = torch.get_float32_matmul_precision()
    line = ["--config-file", str(yaml_file), "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1"]
    try:
        assert train_in_process([*line, "FLOAT32_PRECISION", "high"]) == 0
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_augmented_test_at_the_end(yaml_file, tmp_path):
    line = ["--config-file", str(yaml_file), "OUTPUT_DIR", str(tmp_path), "TEST.EVAL_PERIOD", "2"]
    augmented = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.FLIP", "False"]
    assert train_in_process([*line, *augmented]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert results.keys() == {"bbox", "segm", "bbox_TTA", "segm_TTA"}
    # One augmentation that changes nothing: the boxes are those of the plain test.
    assert results["bbox_TTA"]["AP"] == pytest.approx(results["bbox"]["AP"], abs=1e-6)
    periodic = next(m for m in metrics_of(tmp_path) if "bbox/AP" in m)
    assert "bbox_TTA/AP" not in periodic


def test_augmented_test_with_precomputed_proposals_is_refused(yaml_file):
    with pytest.raises(ConfigError, match=r"TEST.AUG.ENABLED: .* takes no precomputed proposals"):
        load_config(str(yaml_file), ["TEST.AUG.ENABLED", "True", "MODEL.LOAD_PROPOSALS", "True"])


def test_augmented_test_of_keypoints_needs_to_know_their_partners(yaml_file):
    keys = ["TEST.AUG.ENABLED", "True", "MODEL.KEYPOINT_ON", "True"]
    load_config(str(yaml_file), [*keys, "TEST.AUG.FLIP", "False"]).check_evaluation()
    config = load_config(str(yaml_file), keys)
    with pytest.raises(ConfigError, match="keypoint_flip_map; they are missing"):
        config.check_evaluation()
    names = {"keypoint_names": ("left", "right"), "keypoint_flip_map": (("left", "right"),)}
    MetadataCatalog.get("mirrored_people").set(**names)
    config.test_names = ["mirrored_people"]
    config.check_evaluation()


def test_expected_results(yaml_file, tmp_path):
    line = ["--config-file", str(yaml_file), "OUTPUT_DIR", str(tmp_path), "SOLVER.MAX_ITER", "1"]
    within = "TEST.EXPECTED_RESULTS=[['bbox', 'AP', 50.0, 60.0]]"
    assert train_in_process([*line, within]) == 0
    evaluate = [*line, "--eval-only", "MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    with pytest.raises(SystemExit) as stop:
        train_in_process([*evaluate, "TEST.EXPECTED_RESULTS=[['segm', 'AP', 101.0, 0.5]]"])
    assert stop.value.code == 1
    with pytest.raises(ConfigError, match=r"no task 'box' in the results, which have \['bbox', 'segm'\]"):
        train_in_process([*evaluate, "TEST.EXPECTED_RESULTS=[['box', 'AP', 50.0, 60.0]]"])


def test_an_evaluator_that_does_not_exist_is_found_before_training(yaml_file, tmp_path):
    MetadataCatalog.get("panoptic").set(evaluator_type="coco_panoptic_seg")
    DatasetCatalog.register("panoptic", list)
    try:
        line = [
            "--config-file",
            str(yaml_file),
            "OUTPUT_DIR",
            str(tmp_path),
            "DATASETS.TEST",
            "('panoptic',)",
        ]
        with pytest.raises(ConfigError, match="'panoptic' has evaluator_type 'coco_panoptic_seg', expected"):
            train_in_process(line)
        assert not list(tmp_path.glob("*.pth"))
    finally:
        DatasetCatalog.remove("panoptic")
        MetadataCatalog.remove("panoptic")


def test_as_many_detections_are_scored_as_the_model_gives(yaml_file):
    config = load_config(str(yaml_file), ["TEST.DETECTIONS_PER_IMAGE", "300"])
    fit_to_dataset(config)
    (test_set,) = config.test_sets(final=False)
    assert test_set.evaluator._max_dets_per_image == [1, 10, 300]
    assert config.expected_of_data().max_dets == 300


def test_precise_bn_recomputes_the_statistics_that_training_averages(yaml_file):
    precise = ["TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "1"]
    config = load_config(str(yaml_file), ["MODEL.DEVICE", "cpu", *precise])
    fit_to_dataset(config)
    model = config.build_model()
    (hook,) = config.build_hooks(model)
    hook.trainer = SimpleNamespace(iter=0, max_iter=1, storage=None)
    mean = model.backbone.bottom_up.stem.conv1.norm.running_mean
    assert mean.abs().max() == 0
    with EventStorage():
        hook.after_step()
    assert mean.abs().max() > 0
    assert load_config(str(yaml_file)).build_hooks(model) == []


def test_precise_bn_without_batchnorm_is_refused_by_name(yaml_file):
    frozen = ["MODEL.RESNETS.NORM", "FrozenBN", "TEST.PRECISE_BN.ENABLED", "True"]
    config = load_config(str(yaml_file), ["MODEL.DEVICE", "cpu", *frozen])
    with pytest.raises(ConfigError, match=r"TEST\.PRECISE_BN\.ENABLED: no BatchNorm of this model") as error:
        config.build_hooks(config.build_model())
    assert "\n" not in str(error.value)
