"""COCO-format data by name alone: coco:ANNOTATIONS.json:IMAGE_ROOT, through Detectron2's own loaders."""

import pytest
import torch
from detectron2.config import LazyConfig, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.data.samplers import InferenceSampler
from omegaconf import OmegaConf

from mrcnn_plugin.data import ensure_registered
from mrcnn_plugin.errors import DatasetError

KEYPOINTS = {"keypoints": ["nose", "left_ear", "right_ear"], "skeleton": [[2, 1], [1, 3]]}


def mapper(**options):
    arguments = {"augmentations": [], "image_format": "BGR", "use_instance_mask": True} | options
    return DatasetMapper(True, **arguments)


def test_metadata_comes_from_the_file(write, coco):
    coco["categories"][1] |= KEYPOINTS
    name = write(coco)
    ensure_registered(name)
    metadata = MetadataCatalog.get(name)
    _, json_file, image_root = name.split(":")
    assert (metadata.json_file, metadata.image_root) == (json_file, image_root)
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == ["cat", "dog"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1}
    assert metadata.keypoint_names == ("nose", "left_ear", "right_ear")
    assert metadata.keypoint_flip_map == (("left_ear", "right_ear"),)
    limbs = [rule[:2] for rule in metadata.keypoint_connection_rules]
    assert limbs == [("left_ear", "nose"), ("nose", "right_ear")]
    assert create_keypoint_hflip_indices([name]) == [0, 2, 1]


def test_registering_twice_is_harmless(write, coco):
    name = write(coco)
    ensure_registered([name, "shapes_val"])
    ensure_registered((name,))
    assert name in DatasetCatalog


def test_masks_classes_and_crowds_load(write, coco):
    name = write(coco)
    ensure_registered(name)
    records = get_detection_dataset_dicts(name, filter_empty=False)
    assert [len(record["annotations"]) for record in records] == [2, 1]
    instances = mapper()(records[0])["instances"]
    assert instances.gt_classes.tolist() == [0, 1]
    assert instances.gt_boxes.tensor.tolist() == [[5, 5, 25, 25]] * 2
    assert instances.gt_masks.area().tolist() == [400, 400]


def test_instances_without_keypoints_get_unlabelled_ones(write, coco):
    coco["categories"][1] |= KEYPOINTS
    coco["annotations"][0]["keypoints"] = [6, 7, 2, 8, 9, 1, 0, 0, 0]
    name = write(coco)
    ensure_registered(name)
    map_sample = mapper(use_keypoint=True, keypoint_hflip_indices=create_keypoint_hflip_indices([name]))
    keypoints = map_sample(DatasetCatalog.get(name)[0])["instances"].gt_keypoints.tensor
    expected = [[[6.5, 7.5, 2], [8.5, 9.5, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    assert keypoints.tolist() == expected


def test_images_without_instances_and_with_crowds_alone_reach_the_model(write, coco):
    """filter_empty=False: neither an image of only crowd regions nor an empty one breaks the loader."""
    coco["images"].append({"id": 3, "file_name": "3.jpg", "width": 60, "height": 40})
    name = write(coco)
    ensure_registered(name)
    records = get_detection_dataset_dicts([name], filter_empty=False)
    loader = build_detection_train_loader(
        records, mapper=mapper(), sampler=InferenceSampler(len(records)), total_batch_size=3, num_workers=0
    )
    batch = next(iter(loader))
    assert [len(sample["instances"]) for sample in batch] == [2, 0, 0]
    for sample in batch[1:]:
        assert sample["instances"].gt_boxes.tensor.shape == (0, 4)
        assert sample["instances"].gt_classes.dtype == torch.int64
    assert len(get_detection_dataset_dicts([name], filter_empty=True)) == 1


def test_rle_masks_load_as_bitmasks(write, coco):
    for annotation in coco["annotations"]:
        annotation["segmentation"] = {"size": [40, 60], "counts": [40 * 5, 40 * 10, 40 * 45]}
    name = write(coco)
    ensure_registered(name)
    instances = mapper(instance_mask_format="bitmask")(DatasetCatalog.get(name)[0])["instances"]
    assert instances.gt_masks.tensor.sum((1, 2)).tolist() == [400, 400]


def test_names_survive_overrides_and_yaml(write, coco):
    name = write(coco)
    lazy = OmegaConf.create({"dataloader": {"train": {"dataset": {"names": "coco_2017_train"}}}})
    lazy = LazyConfig.apply_overrides(lazy, [f"dataloader.train.dataset.names={name}"])
    assert lazy.dataloader.train.dataset.names == name
    lazy = LazyConfig.apply_overrides(lazy, [f"dataloader.train.dataset.names=[{name},shapes_train]"])
    assert list(lazy.dataloader.train.dataset.names) == [name, "shapes_train"]
    ensure_registered(lazy.dataloader.train.dataset.names)
    yaml = get_cfg()
    yaml.merge_from_list(["DATASETS.TRAIN", f"('{name}',)"])
    assert (name,) == yaml.DATASETS.TRAIN
    ensure_registered(yaml.DATASETS.TRAIN)


def test_the_last_colon_separates_the_paths(write, coco, tmp_path):
    name = write(coco, "a:b.json")
    ensure_registered(name)
    assert MetadataCatalog.get(name).json_file == str(tmp_path / "a:b.json")


@pytest.mark.parametrize("name", ["coco:", "coco:a.json", "coco:a.json:", "coco::images"])
def test_incomplete_names(name):
    with pytest.raises(DatasetError, match="expected coco:ANNOTATIONS"):
        ensure_registered(name)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(DatasetError, match=r"shape_train: no such data set; did you mean shapes_train\?"):
        ensure_registered("shape_train")
    with pytest.raises(DatasetError, match=r"qqq: no such data set; \(your own data is coco:ANNOTATIONS"):
        ensure_registered(["qqq"])


def test_a_failed_registration_leaves_nothing(tmp_path):
    name = f"coco:{tmp_path / 'missing.json'}:{tmp_path}"
    with pytest.raises(DatasetError, match=r"missing\.json: no such annotation file"):
        ensure_registered(name)
    assert name not in DatasetCatalog
