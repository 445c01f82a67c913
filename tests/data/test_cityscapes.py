"""Drawn scenes in Cityscapes' layout, read by Detectron2's loader and scored by Cityscapes' scripts."""

import dataclasses
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances, load_cityscapes_semantic
from detectron2.structures import Instances

from mrcnn_plugin.data import check_cityscapes, check_datasets
from mrcnn_plugin.data.cityscapes import StreetSet, ensure_drawn, register_drawn
from mrcnn_plugin.data.synthetic.cityscapes import main
from mrcnn_plugin.data.synthetic.street import THINGS, draw_street
from mrcnn_plugin.errors import DatasetError
from mrcnn_plugin.evaluation.cityscapes import CityscapesInstanceEvaluator

SMALL = StreetSet("val", images=6, height=96, width=192)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cityscapes")
    ensure_drawn(root, SMALL)
    return root


def split(root):
    return str(root / "leftImg8bit" / "val"), str(root / "gtFine" / "val")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_things_are_cityscapes_classes():
    assert list(THINGS) == MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes


def test_layout_is_the_genuine_one(root):
    images = sorted(p.name for p in (root / "leftImg8bit" / "val" / "delta").iterdir())
    assert images[0] == "delta_000000_000019_leftImg8bit.png"
    assert len(images) == 6
    kinds = ("polygons.json", "instanceIds.png", "labelIds.png", "labelTrainIds.png")
    want = {f"delta_00000{i}_000019_gtFine_{kind}" for i in range(6) for kind in kinds}
    assert {p.name for p in (root / "gtFine" / "val" / "delta").iterdir()} == want


def test_label_images_follow_the_polygons(root):
    """Instances are numbered class * 1000 + i in the order of the polygons; the rest has its class."""
    from cityscapesscripts.helpers.labels import name2label

    folder = root / "gtFine" / "val" / "delta"
    paths = sorted(folder.glob("*_polygons.json"))
    assert len(paths) == 6
    for path in paths:
        start = str(path).removesuffix("polygons.json")
        instances, labels, train = (
            cv2.imread(f"{start}{kind}.png", cv2.IMREAD_UNCHANGED)
            for kind in ("instanceIds", "labelIds", "labelTrainIds")
        )
        assert instances.dtype == np.uint16
        objects = json.loads(path.read_text())["objects"]
        assert objects[0]["label"] == "sky"
        assert {"ego vehicle", "rectification border"} <= {o["label"] for o in objects}
        expected = {n: sum(o["label"] == n for o in objects) for n in THINGS}
        ids = np.unique(instances)
        for name, count in expected.items():
            label = name2label[name]
            of_class = ids[(ids >= 1000) & (ids // 1000 == label.id)]
            assert set(of_class) <= {label.id * 1000 + i for i in range(count)}
        is_thing = instances >= 1000
        assert np.array_equal(np.where(is_thing, instances // 1000, instances), labels)
        assert np.array_equal(train == 255, np.isin(labels, [0, 1, 2, 3, 4, 5, 6]))


def test_the_picture_shows_its_polygons():
    """Inside a polygon that nothing covers, pixels have one colour, up to noise, and it is not the road's."""
    street = draw_street(96, 192, 5)
    things = [o for o in street.objects if o["label"] in THINGS]
    assert things
    mask = np.zeros((96, 192), np.uint8)
    cv2.fillPoly(mask, [np.array(things[-1]["polygon"])], 1)
    cv2.fillPoly(mask, [np.array(o["polygon"]) for o in street.objects[-2:]], 0)
    inside = street.image[cv2.erode(mask, np.ones((5, 5))) > 0].astype(float)
    assert len(inside) > 20
    assert inside.std(0).max() < 12
    assert np.ptp(inside.mean(0)) > 40, "things are colourful, the road is gray"


def test_a_seed_draws_the_same_set_and_another_another(root, tmp_path):
    ensure_drawn(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again" / "gtFine") == contents(root / "gtFine")
    assert contents(tmp_path / "again" / "leftImg8bit") == contents(root / "leftImg8bit")
    assert not np.array_equal(draw_street(96, 192, 1).image, draw_street(96, 192, 2).image)
    train = StreetSet("train", images=2, height=96, width=192)
    ensure_drawn(tmp_path / "again", train)
    names = sorted(p.parent.name for p in (tmp_path / "again" / "leftImg8bit" / "train").glob("*/*.png"))
    assert names == ["arbor", "brook"]
    first = cv2.imread(str(next((tmp_path / "again" / "leftImg8bit" / "train").glob("*/*_000000_*.png"))))
    other = cv2.imread(str(root / "leftImg8bit/val/delta/delta_000000_000019_leftImg8bit.png"))
    assert not np.array_equal(first, other), "the splits are disjoint"


def test_a_set_that_is_there_is_kept_and_a_changed_one_redrawn(tmp_path):
    image_dir, _ = ensure_drawn(tmp_path, SMALL)
    image = image_dir / "delta" / "delta_000000_000019_leftImg8bit.png"
    before = image.stat().st_mtime_ns
    ensure_drawn(tmp_path, SMALL)
    assert image.stat().st_mtime_ns == before
    ensure_drawn(tmp_path, dataclasses.replace(SMALL, images=2))
    assert len(list(image_dir.glob("*/*.png"))) == 2
    # As an interruption between the two renames would leave it.
    image.unlink()
    (image_dir / "delta" / "delta_000001_000019_leftImg8bit.png").unlink()
    (image_dir / "delta").rmdir()
    image_dir.rmdir()
    ensure_drawn(tmp_path, dataclasses.replace(SMALL, images=2))
    assert image.is_file()


def test_the_real_data_set_is_never_overwritten(tmp_path):
    real = tmp_path / "gtFine" / "val" / "frankfurt"
    real.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="was not drawn here, so it is kept: give another root"):
        ensure_drawn(tmp_path, SMALL)
    assert real.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "split must be one of train, val, got 'test'"),
        ({"images": 0}, "images must be at least 1, got 0"),
        ({"height": 10}, "height must be at least 64, got 10"),
    ],
)
def test_bad_parameters_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        StreetSet(**{"split": "val", **change})


def test_command_line(tmp_path, capsys):
    arguments = [
        "--root",
        str(tmp_path),
        "--images",
        "1",
        "--splits",
        "val",
        "--height",
        "64",
        "--width",
        "64",
    ]
    assert main(arguments) == 0
    assert "leftImg8bit" in capsys.readouterr().out
    assert main([*arguments[:3], "-1", *arguments[4:]]) == 1
    assert capsys.readouterr().err == "error: images must be at least 1, got -1\n"


@pytest.fixture
def dataset(root):
    name = "cityscapes_test_drawn"
    register_drawn(name, str(root), SMALL)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def perfect_outputs(record) -> Instances:
    """What a model that knows the ground truth would say: the instances' own pixels."""
    path = record["file_name"].replace("leftImg8bit/val", "gtFine/val")
    ids = cv2.imread(path.replace("leftImg8bit.png", "gtFine_instanceIds.png"), cv2.IMREAD_UNCHANGED)
    classes = sorted({24, 25, 26, 27, 28, 31, 32, 33})
    own = [i for i in np.unique(ids) if i >= 1000]
    result = Instances(ids.shape)
    result.pred_masks = (
        torch.from_numpy(np.stack([ids == i for i in own])) if own else torch.zeros(0, *ids.shape)
    )
    result.pred_classes = torch.tensor([classes.index(i // 1000) for i in own], dtype=torch.int64)
    result.scores = torch.ones(len(own))
    return result


def test_the_official_evaluation_gives_the_truth_100_and_nothing_0(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = DatasetCatalog.get(dataset)
    assert len(records) == 6
    for outputs, want in ((perfect_outputs, 100.0), (lambda record: perfect_outputs(record)[:0], 0.0)):
        evaluator = CityscapesInstanceEvaluator(dataset)
        evaluator.reset()
        evaluator.process(records, [{"instances": outputs(record)} for record in records])
        result = evaluator.evaluate()["segm"]
        assert result["AP"] == pytest.approx(want)
        assert result["AP50"] == pytest.approx(want)
    assert os.listdir(tmp_path) == []


def test_detectron2s_loader_finds_what_was_drawn(root):
    """Polygons less what lies over them have, up to a pixel, the extent of the instance images."""
    polygons = {r["file_name"]: r for r in load_cityscapes_instances(*split(root), from_json=True)}
    images = load_cityscapes_instances(*split(root), from_json=False, to_polygons=False)
    for record in images:
        ours = polygons[record["file_name"]]["annotations"]
        assert len(ours) >= len(record["annotations"])
        for annotation in record["annotations"]:
            same = [a for a in ours if a["category_id"] == annotation["category_id"]]
            distances = [np.abs(np.subtract(a["bbox"], annotation["bbox"])).max() for a in same]
            assert min(distances) <= 2
    assert all(Path(r["sem_seg_file_name"]).is_file() for r in load_cityscapes_semantic(*split(root)))


def test_what_is_missing_is_one_line_that_says_how_to_fix_it(tmp_path):
    ensure_drawn(tmp_path, dataclasses.replace(SMALL, images=2))
    image_dir, gt_dir = split(tmp_path)
    check_cityscapes(image_dir, gt_dir)
    check_cityscapes(image_dir, gt_dir, "sem_seg")
    start = Path(gt_dir, "delta", "delta_000001_000019_gtFine_")

    def message(task="instance_seg", **folders):
        with pytest.raises(DatasetError) as caught:
            check_cityscapes(**{"image_dir": image_dir, "gt_dir": gt_dir, **folders}, task=task)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    os.remove(f"{start}labelTrainIds.png")
    check_cityscapes(image_dir, gt_dir)
    assert message("sem_seg") == (
        f"no {start}labelTrainIds.png: make them with CITYSCAPES_DATASET={tmp_path} "
        "python -m cityscapesscripts.preparation.createTrainIdLabelImgs"
    )
    os.remove(f"{start}polygons.json")
    assert "polygons.json: unpack gtFine_trainvaltest.zip" in message()
    Path(image_dir, "delta", "a.txt").write_text("")
    assert "a.txt is not one of Cityscapes" in message()
    assert "set DETECTRON2_DATASETS (now" in message(image_dir=str(tmp_path / "none"))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images in" in message(image_dir=str(empty))


def test_checks_before_training_know_cityscapes(tmp_path):
    name = "cityscapes_test_checked"
    register_drawn(name, str(tmp_path), StreetSet("val", images=2, height=64, width=64))
    try:
        assert f"{name}: not in COCO format" in str(check_datasets(name, num_classes=8))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    # Detectron2's own names; the folder that its registration looks into is not there.
    with pytest.raises(DatasetError, match=r"leftImg8bit/train.*DETECTRON2_DATASETS"):
        check_datasets("cityscapes_fine_instance_seg_train")
    with pytest.raises(DatasetError, match=r"leftImg8bit/train.*DETECTRON2_DATASETS"):
        DatasetCatalog.get("cityscapes_fine_instance_seg_train")
