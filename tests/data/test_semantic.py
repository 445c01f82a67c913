"""Semantic labels made from instances, and the sets that have them, through Detectron2's own mapper."""

import json
import os

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T

from mrcnn_plugin.data import check_datasets, ensure_semantic_labels, register_semantic
from mrcnn_plugin.data.registration import register_shapes_set
from mrcnn_plugin.data.semantic import semantic_label
from mrcnn_plugin.data.synthetic.generator import SetParameters, ensure_set
from mrcnn_plugin.errors import DatasetError

SQUARE = {"category_id": 7, "area": 64.0, "segmentation": [[0.0, 0, 8, 0, 8, 8, 0, 8]]}
PATCH = {"category_id": 3, "area": 16.0, "segmentation": [[2.0, 2, 6, 2, 6, 6, 2, 6]]}
# Runs down the columns: the last of ten is foreground.
CROWD = {"category_id": 9, "area": 10.0, "segmentation": {"size": [10, 10], "counts": [90, 10]}}


def test_label_by_hand():
    label = semantic_label([PATCH, SQUARE, CROWD], {7: 1, 3: 2, 9: 3}, 10, 10)
    expected = np.zeros((10, 10), np.uint8)
    expected[:8, :8] = 1
    expected[2:6, 2:6] = 2
    expected[:, 9] = 3
    assert label.dtype == np.uint8
    assert np.array_equal(label, expected)


def test_without_instances_all_is_background():
    assert not semantic_label([], {}, 4, 6).any()
    assert not semantic_label([{"category_id": 1, "area": 0.0, "segmentation": []}], {1: 1}, 4, 6).any()


@pytest.fixture
def drawn(tmp_path):
    return ensure_set(tmp_path, "shapes", "train", SetParameters("shapes", "train", images=6, size=64))


def test_labels_are_written_once_and_anew_for_other_annotations(drawn, tmp_path):
    folder = tmp_path / "labels"
    ensure_semantic_labels(drawn.json_file, folder)
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names == [f"{i:06d}.png" for i in range(6)]
    before = os.stat(folder / names[0]).st_mtime_ns
    ensure_semantic_labels(drawn.json_file, folder)
    assert os.stat(folder / names[0]).st_mtime_ns == before

    dataset = json.loads(drawn.json_file.read_text())
    dataset["annotations"] = []
    drawn.json_file.write_text(json.dumps(dataset))
    ensure_semantic_labels(drawn.json_file, folder)
    assert not any(cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE).any() for name in names)


def test_the_mapper_transforms_labels_with_the_image(drawn, tmp_path):
    register_shapes_set("test_semantic_source", str(tmp_path), "shapes", "train")
    folder = str(tmp_path / "labels")
    register_semantic(
        "test_semantic_set",
        "test_semantic_source",
        folder,
        draw=lambda: ensure_semantic_labels(drawn.json_file, folder),
    )
    try:
        records = DatasetCatalog.get("test_semantic_set")
        metadata = MetadataCatalog.get("test_semantic_set")
        assert metadata.thing_classes == ["circle", "square", "triangle", "star"]
        assert (metadata.sem_seg_root, metadata.ignore_label) == (folder, 255)
        mapper = DatasetMapper(
            is_train=True,
            augmentations=[T.RandomFlip(1.0, horizontal=True)],
            image_format="BGR",
            use_instance_mask=True,
            instance_mask_format="bitmask",
        )
        seen = 0
        for record in records:
            mapped = mapper(record)
            sem_seg = mapped["sem_seg"]
            assert sem_seg.shape == mapped["image"].shape[1:]
            for mask, category in zip(mapped["instances"].gt_masks.tensor, mapped["instances"].gt_classes):
                # Outlines and pixels differ at the edge, and a smaller shape may lie over another.
                assert (sem_seg[mask] == 1 + category).float().mean() > 0.8
                seen += 1
        assert seen >= 6
    finally:
        for name in ("test_semantic_set", "test_semantic_source"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_built_in_sets_are_registered():
    for split in ("train", "val"):
        assert MetadataCatalog.get(f"shapes_semantic_{split}").sem_seg_root.endswith(
            f"shapes/stuffthingmaps/{split}"
        )
        coco = MetadataCatalog.get(f"coco_2017_{split}_stuffthingmaps")
        assert coco.sem_seg_root.endswith(f"coco/stuffthingmaps/{split}2017")
        assert coco.json_file == MetadataCatalog.get(f"coco_2017_{split}").json_file
        assert len(coco.thing_classes) == 80


def test_a_missing_folder_is_named(drawn, tmp_path):
    register_shapes_set("test_semantic_source", str(tmp_path), "shapes", "train")
    register_semantic("test_semantic_set", "test_semantic_source", str(tmp_path / "nowhere"))
    try:
        with pytest.raises(DatasetError, match=r"nowhere: no such folder, the sem_seg_root of"):
            check_datasets("test_semantic_set")
    finally:
        for name in ("test_semantic_set", "test_semantic_source"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
