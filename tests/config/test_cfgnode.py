"""The YAML route: a CfgNode config through the same main()."""

from __future__ import annotations

import json

import pytest
import yaml
from detectron2.config import get_cfg
from helpers.tiny_runs import metrics_of, train_in_process

from mrcnn_plugin.config.fitting import fit_to_dataset, register_datasets
from mrcnn_plugin.config.loading import load_config
from mrcnn_plugin.train import ConfigError

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
    saved, _ = load_config(str(folder / "config.yaml"))
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
    cfg, keys = load_config(str(yaml_file))
    register_datasets(cfg)
    (line,) = fit_to_dataset(cfg, keys)
    assert line.startswith("MODEL.ROI_HEADS.NUM_CLASSES = 4, the classes of coco:")
    assert line.endswith(": circle, square, triangle, star")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 4

    cfg, keys = load_config(str(yaml_file), ["MODEL.ROI_HEADS.NUM_CLASSES", "7"])
    assert fit_to_dataset(cfg, keys) == []
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 7


def test_yaml_without_a_mapping(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_config(str(path))


def test_defaults_are_detectron2s(yaml_file):
    assert load_config(str(yaml_file))[0].SOLVER.MOMENTUM == get_cfg().SOLVER.MOMENTUM
