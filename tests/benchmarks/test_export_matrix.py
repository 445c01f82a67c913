"""benchmarks/export_matrix.py: its table from made-up cells, its pictures, its models' configs."""

import json

import export_matrix
import numpy as np
import pytest
from PIL import Image


def found(**changed):
    cell = {
        "detections": 20,
        "matched": 20,
        "box": 6e-5,
        "score": 1e-6,
        "mask_score": 2e-6,
        "keypoint": 0.0,
        "mask_iou": 0.999,
        "first": "",
        "stage": "",
        "outputs": ["boxes", "scores", "classes", "masks"],
    }
    return cell | changed


def test_table_by_hand():
    cells = {
        "A": {"pt2": found(), "onnx": found(outputs=["boxes", "scores", "classes"])},
        "B": {"onnx": found(matched=19, first="a.jpg: box is missing", stage="proposals (shape)")},
    }
    lines = export_matrix.table(cells).splitlines()
    assert [part.strip() for part in lines[0].strip("|").split("|")] == ["model", "onnx", "pt2"]
    assert [part.strip() for part in lines[2].strip("|").split("|")] == [
        "A",
        "20 of 20: 6e-05, 2e-06",
        "20 of 20: 6e-05, 2e-06, 1e-03",
    ]
    assert [part.strip() for part in lines[3].strip("|").split("|")] == [
        "B",
        "**19 of 20: 6e-05, 2e-06, 1e-03**",
        "not run",
    ]
    assert lines[-1] == "- B, onnx: a.jpg: box is missing; first stage that differs: proposals (shape)"


def test_cells_are_in_the_order_of_the_cases(tmp_path):
    file = tmp_path / "cells.json"
    assert export_matrix.stored(file) == {}
    file.write_text(json.dumps({"mine, trained": {}, "PANet, random": {}, "Faster R-CNN, FPN, random": {}}))
    assert list(export_matrix.stored(file)) == ["Faster R-CNN, FPN, random", "PANet, random", "mine, trained"]


def test_pictures_grow_from_the_first_edge_to_the_second(tmp_path):
    for index in range(6):
        Image.new("RGB", (60 + index, 40)).save(tmp_path / f"{index}.png")
    pictures = export_matrix.read(tmp_path, 3, (32, 64))
    assert [name for name, _ in pictures] == ["0.png at 32", "2.png at 48", "4.png at 64"]
    assert [min(image.shape[:2]) for _, image in pictures] == [32, 48, 64]
    assert pictures[0][1].dtype == np.uint8
    with pytest.raises(SystemExit, match="7 pictures are needed, it has 6"):
        export_matrix.read(tmp_path, 7, (32, 64))


@pytest.mark.parametrize("name", export_matrix.CASES)
def test_models_have_configs(name):
    assert "_target_" in export_matrix.CASES[name]()
