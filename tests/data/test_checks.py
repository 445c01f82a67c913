"""The report before training, and every line that stops it."""

import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from mrcnn_plugin.data import check_datasets, register_shapes_set
from mrcnn_plugin.data.synthetic.generator import SetParameters, ensure_set
from mrcnn_plugin.errors import DatasetError


def fails(name, **expectations):
    with pytest.raises(DatasetError) as error:
        check_datasets(name, **expectations)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_report_of_a_good_data_set(write, coco):
    name = write(coco)
    report = check_datasets(name, num_classes=2, class_names=["cat", "dog"], needs_masks=True)
    summary = report.summaries[name]
    assert (summary.images, summary.instances, summary.crowd) == (2, 2, 1)
    assert report.warnings == []
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in str(report).splitlines()]
    assert ["", "coco:annotations.json"] in lines
    for row in (["images", "2"], ["instances", "2"], ["crowd regions", "1"], ["degenerate boxes", "0"]):
        assert row in lines
    assert ["class", "images", "instances", "crowd", "keypoints"] in lines
    assert ["cat", "2", "1", "1", "0"] in lines
    assert ["dog", "1", "1", "0", "0"] in lines


def test_report_warns_of_what_is_left_out(write, coco):
    coco["annotations"][0] |= {"bbox": [5, 5, 0, 0]}
    coco["annotations"][1] |= {"segmentation": [[1, 2, 3, 4], [1, 2, 9, 2, 9, 9]]}
    coco["annotations"].append(coco["annotations"][0] | {"id": 9, "image_id": 9})
    report = check_datasets(write(coco), num_classes=5)
    text = str(report)
    assert "warning: " in text
    for part in (
        "1 boxes without area",
        "1 polygons of fewer than 3 points",
        "1 annotations of images that are not",
        "has 2 classes, the model 5; set model.roi_heads.num_classes=2",
    ):
        assert sum(part in warning for warning in report.warnings) == 1


def test_many_classes_are_cut_short(write, coco):
    coco["categories"] += [{"id": i, "name": f"class {i}"} for i in range(100, 230)]
    text = str(check_datasets(write(coco)))
    assert "(32 rarer classes)" in text
    assert text.count("| class 1") == 98
    assert "| cat " in text


def test_missing_image(write, coco, tmp_path):
    name = write(coco)
    (tmp_path / "images" / "2.jpg").unlink()
    message = fails(name)
    assert message.startswith(
        f"{tmp_path}/images/2.jpg: no such image, but {tmp_path}/annotations.json lists it"
    )
    assert "correct the path in the data set's name" in message
    (tmp_path / "images" / "1.jpg").unlink()
    assert "1.jpg: no such image (nor are 1 others of 2)" in fails(name)


def test_images_in_subfolders(write, coco, tmp_path):
    coco["images"][0]["file_name"] = "train/1.jpg"
    name = write(coco)
    check_datasets(name)
    (tmp_path / "images/train/1.jpg").unlink()
    assert fails(name).startswith(f"{tmp_path}/images/train/1.jpg: no such image")
    (tmp_path / "images/train").rmdir()
    assert fails(name).startswith(f"{tmp_path}/images/train/1.jpg: no such image")


def test_missing_folder(write, coco, tmp_path):
    name = write(coco).replace("/images", "/pictures")
    assert fails(name).startswith(f"{tmp_path}/pictures: no such folder, the image_root of coco:")


def test_malformed_json_names_line_and_column(write, tmp_path):
    message = fails(write('{"images": [\n  {"id": 1,}\n]}'))
    assert message.startswith(f"{tmp_path}/annotations.json:2:")
    assert "malformed JSON" in message


def test_missing_built_in_data_names_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    register_coco_instances(
        "test_set", {}, f"{tmp_path}/coco/annotations/a.json", f"{tmp_path}/coco/train2017"
    )
    message = fails("test_set")
    assert message.startswith(f"{tmp_path}/coco/train2017: no such folder, the image_root of test_set")
    assert message.endswith("to the folder that holds coco/train2017")
    assert "set DETECTRON2_DATASETS" in message
    os.makedirs(f"{tmp_path}/coco/train2017")
    message = fails("test_set")
    assert message.startswith(
        f"{tmp_path}/coco/annotations/a.json: no such file, the annotations of test_set"
    )
    assert message.endswith("to the folder that holds coco/annotations/a.json")


def test_missing_registered_data_names_the_registration(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    register_coco_instances("test_set", {}, f"{tmp_path}/a.json", f"{tmp_path}/b")
    assert fails("test_set").endswith("correct the path with which test_set was registered")


def test_too_few_classes(write, coco):
    message = fails(write(coco), num_classes=1)
    assert "has 2 classes, the model 1: it lacks dog; set model.roi_heads.num_classes=2" in message


def test_classes_of_the_model(write, coco):
    message = fails(write(coco), class_names=["dog", "cat"])
    assert (
        "annotations.json: its classes are not those of the model (class 0 is 'cat', expected 'dog'"
        in message
    )


def test_classes_of_a_registered_data_set(write, coco, tmp_path):
    write(coco)
    known = {"thing_classes": ["cat", "wolf"]}
    register_coco_instances("test_set", known, f"{tmp_path}/annotations.json", f"{tmp_path}/images")
    message = fails("test_set")
    assert "its classes are not those known for test_set (class 1 is 'dog', expected 'wolf')" in message
    assert f"use coco:{tmp_path}/annotations.json:{tmp_path}/images instead" in message


def test_data_sets_that_disagree(write, coco):
    first = write(coco)
    coco["categories"].append({"id": 10, "name": "bird"})
    second = write(coco, "second.json")
    message = fails([first, second])
    assert "second.json: its classes are not those of coco:" in message
    assert "(3 classes, expected 2)" in message


def test_keypoints_of_the_model(write, coco):
    message = fails(write(coco), num_keypoints=3)
    assert 'no category has "keypoints", but the model has a keypoint head' in message
    for category in coco["categories"]:
        category["keypoints"] = ["nose", "tail"]
    message = fails(write(coco, "b.json"), num_keypoints=2)
    assert "not one keypoint is labelled" in message
    check_datasets(write(coco, "b.json"), num_keypoints=2, training=False)
    coco["annotations"][0]["keypoints"] = [1, 2, 2, 3, 4, 0]
    message = fails(write(coco, "c.json"), num_keypoints=17)
    assert "its class 'cat' has 2 keypoints, the model 17; set model.roi_heads.keypoint_head" in message
    report = check_datasets(write(coco, "c.json"), num_keypoints=2)
    assert report.summaries.popitem()[1].keypoints == 1
    assert "these 2 are scored with 0.067 each; for others set" in report.warnings[0]
    for category in coco["categories"]:
        category["keypoint_sigmas"] = [0.02, 0.03]
    assert not check_datasets(write(coco, "sigmas.json"), num_keypoints=2).warnings
    for category in coco["categories"]:
        category["keypoint_sigmas"] = [0.02]
    message = fails(write(coco, "few.json"), num_keypoints=2)
    assert '"keypoint_sigmas" has 1 numbers, expected 2' in message
    coco["categories"][0]["keypoints"] = ["nose", "ear"]
    message = fails(write(coco, "d.json"), num_keypoints=2)
    assert "its classes cat, dog have different keypoints" in message


def test_instances_to_learn_from(write, coco):
    coco["annotations"] = coco["annotations"][2:]
    name = write(coco)
    assert "not one instance to learn from" in fails(name)
    check_datasets(name, training=False)
    del coco["annotations"]
    name = write(coco, "test.json")
    assert 'has no "annotations" (an image list of a test set?)' in fails(name)
    assert str(check_datasets(name, training=False))


def test_masks_of_the_model(write, coco):
    coco["annotations"][0]["segmentation"] = {"size": [40, 60], "counts": [0, 2400]}
    name = write(coco)
    message = fails(name, needs_masks=True)
    assert "1 of 2 masks are RLE, but the config reads polygons; set dataloader.train.mapper" in message
    check_datasets(name, needs_masks=True, mask_format="bitmask")
    check_datasets(name)
    del coco["annotations"][0]["segmentation"]
    name = write(coco, "second.json")
    assert "1 of 2 instances have no segmentation, but the model has a mask head" in fails(
        name, needs_masks=True
    )
    check_datasets(name)


def test_built_in_sets_are_drawn(tmp_path):
    ensure_set(tmp_path, "keypoints", "val", SetParameters("keypoints", "val", images=4, size=64))
    register_shapes_set("test_figures", str(tmp_path), "keypoints", "val")
    report = check_datasets("test_figures", num_classes=1, num_keypoints=17, needs_masks=True)
    assert report.summaries["test_figures"].images == 4
    assert report.warnings == []
    assert report.summaries["test_figures"].keypoints > 20


def test_unwritable_root_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    register_shapes_set("test_shapes", str(tmp_path / "file"), "shapes", "val")
    message = fails("test_shapes")
    assert message.startswith(f"{tmp_path}/file/shapes/annotations/instances_val.json: cannot be drawn")
    assert message.endswith("set DETECTRON2_DATASETS to a folder that can be written")


def test_data_of_other_formats(tmp_path):
    DatasetCatalog.register("test_city", list)
    MetadataCatalog.get("test_city").set(
        image_dir=str(tmp_path / "left"), gt_dir=str(tmp_path), evaluator_type="cityscapes_panoptic_seg"
    )
    assert fails("test_city").startswith(f"{tmp_path}/left: no such folder, the image_dir of test_city")
    (tmp_path / "left").mkdir()
    report = check_datasets("test_city")
    assert report.summaries == {"test_city": None}
    assert str(report) == "test_city: not in COCO format, annotations not checked"


def test_unknown_name():
    assert fails("coco_2017_trian").startswith(
        "coco_2017_trian: no such data set; did you mean coco_2017_train?"
    )


def test_more_instances_than_detections_are_scored(write, coco):
    report = check_datasets(write(coco), training=False, max_dets=2)
    assert report.warnings == []
    report = check_datasets(write(coco), training=False, max_dets=1)
    (warning,) = report.warnings
    assert "an image holds 2 instances, but only 1 detections per image are scored" in warning
