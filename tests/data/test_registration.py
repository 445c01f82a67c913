"""The built-in sets through Detectron2's own catalogs, mapper and loader."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode, Instances

from mrcnn_plugin.data import register_shapes, register_shapes_set
from mrcnn_plugin.data.registration import connection_rules, flip_map, metadata_of
from mrcnn_plugin.data.synthetic.figure import KEYPOINT_NAMES
from mrcnn_plugin.data.synthetic.generator import SetParameters, ensure_set, set_paths


@pytest.fixture
def small_set(tmp_path):
    """Registers a set of 12 small images under a name of its own."""

    def register(kind):
        ensure_set(tmp_path, kind, "train", SetParameters(kind, "train", images=12, size=96))
        name = f"test_{kind}_train"
        register_shapes_set(name, str(tmp_path), kind, "train")
        return name

    return register


@pytest.mark.parametrize("folder", ["shapes", "shapes_keypoints"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_importing_the_plugin_registers_the_sets(folder, split):
    metadata = MetadataCatalog.get(f"{folder}_{split}")
    assert f"{folder}_{split}" in DatasetCatalog
    assert metadata.evaluator_type == "coco"
    assert metadata.image_root.endswith(f"{folder}/{split}")
    assert metadata.json_file.endswith(f"_{split}.json")
    if folder == "shapes":
        assert metadata.thing_classes == ["circle", "square", "triangle", "star"]
        assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1, 3: 2, 4: 3}
    else:
        assert metadata.thing_classes == ["figure"]
        assert metadata.keypoint_names == KEYPOINT_NAMES
        assert len(metadata.keypoint_flip_map) == 8
        assert len(metadata.keypoint_connection_rules) == 16


def test_registering_twice_is_harmless():
    register_shapes("elsewhere")
    assert not MetadataCatalog.get("shapes_train").json_file.startswith("elsewhere")


def test_sets_are_drawn_when_first_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("mrcnn_plugin.data.synthetic.generator.SPLITS", {"train": 3, "val": 2})
    register_shapes_set("test_lazy", str(tmp_path), "shapes", "val")
    assert list(tmp_path.iterdir()) == []
    assert len(DatasetCatalog.get("test_lazy")) == 2
    assert set_paths(tmp_path, "shapes", "val").json_file.exists()


def mapped(name, *, flip, masks="polygon", keypoints=False):
    return DatasetMapper(
        is_train=True,
        augmentations=[T.RandomFlip(prob=1.0 if flip else 0.0)],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=masks,
        use_keypoint=keypoints,
        keypoint_hflip_indices=create_keypoint_hflip_indices([name]) if keypoints else None,
    )


def test_masks_through_the_mapper_match_the_annotations(small_set):
    name = small_set("shapes")
    records = DatasetCatalog.get(name)
    assert len(records) == 12
    for record in records:
        instances = mapped(name, flip=False)(record)["instances"]
        kept = [a for a in record["annotations"] if not a["iscrowd"]]
        assert instances.gt_classes.tolist() == [a["category_id"] for a in kept]
        boxes = [BoxMode.convert(a["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for a in kept]
        assert instances.gt_boxes.tensor.numpy() == pytest.approx(np.array(boxes).reshape(-1, 4), abs=1e-4)
        for mask, annotation in zip(instances.gt_masks if len(kept) else [], kept):
            rles = mask_util.frPyObjects(mask, 96, 96)
            expected = mask_util.frPyObjects(annotation["segmentation"], 96, 96)
            assert mask_util.area(mask_util.merge(rles)) == mask_util.area(mask_util.merge(expected))


def test_flip_mirrors_image_masks_and_keypoints(small_set):
    name = small_set("keypoints")
    flipped_index = create_keypoint_hflip_indices([name])
    assert flipped_index[KEYPOINT_NAMES.index("left_eye")] == KEYPOINT_NAMES.index("right_eye")
    assert flipped_index[KEYPOINT_NAMES.index("nose")] == KEYPOINT_NAMES.index("nose")
    for record in DatasetCatalog.get(name):
        plain = mapped(name, flip=False, masks="bitmask", keypoints=True)(record)
        flipped = mapped(name, flip=True, masks="bitmask", keypoints=True)(record)
        assert torch.equal(flipped["image"], plain["image"].flip(2))
        masks = plain["instances"].gt_masks.tensor, flipped["instances"].gt_masks.tensor
        assert (masks[0].flip(2) != masks[1]).float().mean() < 0.01
        before = plain["instances"].gt_keypoints.tensor
        after = flipped["instances"].gt_keypoints.tensor[:, flipped_index]
        labelled = before[..., 2] > 0
        assert torch.equal(before[..., 2], after[..., 2])
        assert torch.allclose(96 - before[..., 0][labelled], after[..., 0][labelled])
        assert torch.equal(before[..., 1], after[..., 1])


def test_loader_adds_half_a_pixel_to_keypoints(small_set):
    name = small_set("keypoints")
    annotation = json.loads(Path(MetadataCatalog.get(name).json_file).read_text())["annotations"][0]
    record = next(r for r in DatasetCatalog.get(name) if r["image_id"] == annotation["image_id"])
    loaded = np.array(record["annotations"][0]["keypoints"]).reshape(17, 3)
    stored = np.array(annotation["keypoints"]).reshape(17, 3)
    assert np.array_equal(loaded, stored + [0.5, 0.5, 0])


@pytest.mark.parametrize("kind", ["shapes", "keypoints"])
def test_train_loader_yields_batches(small_set, kind):
    name = small_set(kind)
    loader = build_detection_train_loader(
        get_detection_dataset_dicts([name], filter_empty=True),
        mapper=mapped(name, flip=True, keypoints=kind == "keypoints"),
        total_batch_size=4,
        num_workers=0,
    )
    batch = next(iter(loader))
    assert len(batch) == 4
    for sample in batch:
        assert sample["image"].shape == (3, 96, 96)
        assert len(sample["instances"]) > 0
        assert len(sample["instances"].gt_masks) == len(sample["instances"])
        assert sample["instances"].has("gt_keypoints") == (kind == "keypoints")


@pytest.mark.parametrize("kind", ["shapes", "keypoints"])
def test_ground_truth_scores_full_marks_in_cocos_evaluation(small_set, kind):
    """Boxes, masks, keypoints, areas and crowds of the JSON file agree with what Detectron2 loads from it."""
    name = small_set(kind)
    evaluator = COCOEvaluator(name, distributed=False, use_fast_impl=False)
    evaluator.reset()
    map_sample = mapped(name, flip=False, masks="bitmask", keypoints=kind == "keypoints")
    for record in DatasetCatalog.get(name):
        truth = map_sample(record)["instances"]
        found = Instances(truth.image_size, pred_boxes=truth.gt_boxes, pred_classes=truth.gt_classes)
        found.scores = torch.ones(len(truth))
        if len(truth):
            found.pred_masks = truth.gt_masks.tensor
        if truth.has("gt_keypoints"):
            found.pred_keypoints = truth.gt_keypoints.tensor
        evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert ("keypoints" in results) == (kind == "keypoints")
    if kind == "keypoints":
        assert results["keypoints"]["AP"] == pytest.approx(100)


def test_flip_map_of_naming_styles():
    names = [
        "nose",
        "left_eye",
        "right_eye",
        "EarLeft",
        "EarRight",
        "L hip",
        "R hip",
        "lwrist",
        "rwrist",
        "tail",
    ]
    expected = (("left_eye", "right_eye"), ("EarLeft", "EarRight"), ("L hip", "R hip"), ("lwrist", "rwrist"))
    assert flip_map(names) == expected
    assert flip_map(["ankle.l", "ankle.r", "heel", "left_only"]) == (("ankle.l", "ankle.r"),)


def test_connection_rules_count_from_one_and_skip_unknown_ends():
    rules = connection_rules(("a", "b", "c"), [(1, 2), (3, 1), (0, 1), (3, 4)])
    assert [rule[:2] for rule in rules] == [("a", "b"), ("c", "a")]
    assert all(0 <= channel <= 255 for rule in rules for channel in rule[2])


def test_metadata_follows_the_order_of_ids():
    metadata = metadata_of([{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}])
    assert metadata == {"thing_classes": ["cat", "dog"], "thing_dataset_id_to_contiguous_id": {2: 0, 7: 1}}


def test_classes_with_different_keypoints_share_none():
    cat = {"id": 1, "name": "cat", "keypoints": ["nose", "tail"]}
    dog = {"id": 2, "name": "dog", "keypoints": ["nose"]}
    assert "keypoint_names" not in metadata_of([cat, dog])
    assert metadata_of([cat, {"id": 2, "name": "ball"}])["keypoint_names"] == ("nose", "tail")
