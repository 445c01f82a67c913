from pathlib import Path

import pytest

from mrcnn_plugin import model_zoo

NAME = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"


def test_get_config_by_name():
    cfg = model_zoo.get_config(NAME)
    assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= set(cfg)
    assert model_zoo.get_config(NAME.removesuffix(".py")) == cfg


def test_the_file_is_that_of_the_checkout():
    root = Path(__file__).parents[1] / "configs"
    assert Path(model_zoo.get_config_file(NAME)).samefile(root / NAME)


def test_list_holds_configs_and_no_pieces():
    names = model_zoo.list_configs()
    assert {NAME, "Shapes/mask_rcnn_R_18_FPN.py", "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py"} <= set(names)
    assert not [name for name in names if "common/" in name or "__init__" in name]
    assert names == sorted(names)


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(FileNotFoundError, match=f"did you mean .*{NAME}"):
        model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R50_FPN_1x")
    with pytest.raises(FileNotFoundError, match="Shapes/mask_rcnn_R_18_FPN"):
        model_zoo.get_config_file("nothing like it")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*common/models/mask_rcnn_fpn\.py"):
        model_zoo.get_config("common/models/mask_rcnn_fnp")


def test_pieces_are_found_by_name():
    assert model_zoo.get_config("common/models/mask_rcnn_fpn").model == model_zoo.get_config(NAME).model
    assert set(model_zoo.get_config("common/optim.py")) == {"AdamW", "SGD"}


def test_each_call_returns_a_copy_of_its_own():
    first, second = (model_zoo.get_config("common/data/coco.py").dataloader for _ in range(2))
    first.train.dataset.names = "other"
    first.train.mapper.augmentations.pop(0)
    assert second.train.dataset.names == "coco_2017_train"
    assert second == model_zoo.get_config("common/data/coco.py").dataloader
