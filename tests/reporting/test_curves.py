"""curves.png and the pictures of instances."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from PIL import Image

from mrcnn_plugin.reporting.curves import curves_figure, plot_curves, read_metrics
from mrcnn_plugin.reporting.pictures import class_color, draw_ground_truth, draw_predictions


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_the_later_line_of_an_iteration_counts(tmp_path):
    path = write_lines(
        tmp_path / "metrics.json",
        {"iteration": 9, "lr": 0.1, "total_loss": 3.0},
        {"iteration": 19, "lr": 0.2, "total_loss": 2.0, "bbox/AP": float("nan")},
        {"iteration": 19, "lr": 0.3, "total_loss": 1.0},
    )
    with open(path, "a") as file:
        file.write('{"iteration": 29, "lr"')
    metrics = read_metrics(path)
    assert metrics["lr"] == {9: 0.1, 19: 0.3}
    assert metrics["total_loss"] == {9: 3.0, 19: 1.0}
    assert not metrics.get("bbox/AP")


def metrics_of_a_run(first_loss: float) -> dict:
    iterations = range(0, 100, 10)
    return {
        "total_loss": {i: first_loss / (1 + i) for i in iterations},
        "loss_cls": {i: first_loss / (2 + i) for i in iterations},
        "lr": dict.fromkeys(iterations, 0.1),
        "bbox/AP": {50: 10.0, 99: 20.0},
        "segm/AP": {50: 11.0, 99: 21.0},
        "segm/AP-circle": {99: 40.0},
    }


def test_panels_and_their_lines():
    losses, aps, rate = curves_figure(metrics_of_a_run(4.0)).axes
    assert [losses.get_title(), aps.get_title(), rate.get_title()] == [
        "Losses",
        "AP on the test set",
        "Learning rate",
    ]
    total = next(line for line in losses.lines if line.get_label() == "total")
    assert list(total.get_xdata()) == list(range(0, 100, 10))
    assert total.get_ydata()[0] == 4.0
    assert {line.get_label() for line in aps.lines} == {"box AP", "mask AP"}
    assert losses.get_yscale() == "log"


def test_without_an_evaluation_there_is_no_panel_for_it():
    metrics = {"total_loss": {0: 2.0, 1: 1.0}, "lr": {0: 0.1, 1: 0.1}}
    assert [axes.get_title() for axes in curves_figure(metrics).axes] == ["Losses", "Learning rate"]
    assert curves_figure(metrics).axes[0].get_yscale() == "linear"


def test_curves_png(tmp_path):
    plot_curves(metrics_of_a_run(4.0), str(tmp_path / "curves.png"), "title")
    width, height = Image.open(tmp_path / "curves.png").size
    assert width > 2 * height > 600
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.fixture
def metadata():
    metadata = MetadataCatalog.get("two_classes_for_pictures")
    metadata.thing_classes = ["first", "second"]
    yield metadata
    MetadataCatalog.remove("two_classes_for_pictures")


def test_prediction_and_ground_truth_of_a_class_have_its_colour(metadata):
    image = np.full((100, 100, 3), 255, np.uint8)
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[0, 30:70, 30:70] = True
    predictions = Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor([[30.0, 30.0, 70.0, 70.0]])),
        scores=torch.tensor([0.9]),
        pred_classes=torch.tensor([1]),
        pred_masks=mask,
    )
    annotation = {
        "bbox": [30, 30, 40, 40],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 1,
        "segmentation": [[30, 30, 70, 30, 70, 70, 30, 70]],
    }
    crowd = {
        **annotation,
        "iscrowd": 1,
        "bbox": [0, 0, 20, 20],
        "segmentation": {"counts": [], "size": [1, 1]},
    }
    predicted = draw_predictions(image, predictions, metadata)
    truth = draw_ground_truth(image, [annotation, crowd], metadata)
    assert predicted.shape == truth.shape == (400, 400, 3)
    # 40% of the class's colour over white, in the lower half of the mask, clear of the label.
    expected = 255 * (0.4 * np.array(class_color(1, metadata)) + 0.6)
    for picture in (predicted, truth):
        np.testing.assert_allclose(picture[250, 200], expected, atol=3)
        assert (picture[40, 40] == 255).all(), "a crowd region is not drawn"
    assert class_color(0, metadata) != class_color(1, metadata)


def test_rle_masks_are_drawn_as_bitmasks_are(metadata):
    from pycocotools import mask as mask_util

    image = np.full((64, 80, 3), 255, np.uint8)
    mask = torch.zeros(1, 64, 80, dtype=torch.bool)
    mask[0, 10:50, 20:60] = True
    fields = {
        "pred_boxes": Boxes(torch.tensor([[20.0, 10.0, 60.0, 50.0]])),
        "scores": torch.tensor([0.9]),
        "pred_classes": torch.tensor([0]),
    }
    rle = mask_util.encode(np.asfortranarray(mask[0].numpy().astype(np.uint8)))
    dense = draw_predictions(image, Instances((64, 80), **fields, pred_masks=mask), metadata)
    sparse = draw_predictions(image, Instances((64, 80), **fields, pred_masks_rle=[rle]), metadata)
    assert (dense == sparse).all()


def test_no_instances_leave_the_image(metadata):
    image = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
    empty = Instances(
        (400, 500),
        pred_boxes=Boxes(torch.zeros(0, 4)),
        scores=torch.zeros(0),
        pred_classes=torch.zeros(0, dtype=torch.long),
    )
    assert np.abs(draw_predictions(image, empty, metadata).astype(int) - image).max() <= 1
