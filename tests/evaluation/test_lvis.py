"""LVIS: Detectron2's evaluator with the lvis package, and one line where that is missing."""

import importlib.util
import json
import sys

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from mrcnn_plugin.data import check_datasets
from mrcnn_plugin.errors import DatasetError


@pytest.fixture
def data_set(tmp_path):
    """Two images of 40 x 40 pixels with a square of class 1 or 2 each, registered as an LVIS set."""
    corners = {1: (4, 4), 2: (20, 12)}
    content = {
        "images": [
            {
                "id": i,
                "height": 40,
                "width": 40,
                "coco_url": f"http://images/val2017/{i}.jpg",
                "not_exhaustive_category_ids": [],
                "neg_category_ids": [],
            }
            for i in corners
        ],
        "categories": [{"id": i, "name": f"class {i}", "frequency": "f"} for i in corners],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": i,
                "bbox": [x, y, 16, 16],
                "area": 256,
                "segmentation": [[x, y, x + 16, y, x + 16, y + 16, x, y + 16]],
            }
            for i, (x, y) in corners.items()
        ],
    }
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(content))
    name = "lvis_of_a_test"
    DatasetCatalog.register(name, lambda: [])
    MetadataCatalog.get(name).set(json_file=str(path), evaluator_type="lvis", image_root=str(tmp_path))
    yield name, corners
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.skipif(importlib.util.find_spec("lvis") is None, reason="lvis is an extra")
def test_perfect_predictions_score_100_and_a_missed_class_half(data_set):
    from detectron2.evaluation import LVISEvaluator

    name, corners = data_set

    def scored(found):
        evaluator = LVISEvaluator(name, distributed=False)
        evaluator.reset()
        for image in corners:
            x, y = corners[image]
            instances = Instances((40, 40), pred_boxes=Boxes(torch.tensor([[x, y, x + 16.0, y + 16]])))
            instances.scores = torch.tensor([0.9])
            # Classes are contiguous in Detectron2, from 1 in LVIS.
            instances.pred_classes = torch.tensor([image - 1])
            instances.pred_masks = torch.zeros(1, 40, 40, dtype=torch.bool)
            instances.pred_masks[0, y : y + 16, x : x + 16] = True
            instances = instances if image in found else instances[:0]
            evaluator.process([{"image_id": image}], [{"instances": instances}])
        results = evaluator.evaluate()
        return results["bbox"]["AP"], results["segm"]["AP"]

    assert scored({1, 2}) == pytest.approx((100.0, 100.0))
    assert scored({2}) == pytest.approx((50.0, 50.0))


def test_a_missing_package_is_one_line_before_training(data_set, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(DatasetError, match=r"lvis_of_a_test: .*the lvis package.*pip install") as error:
        check_datasets(data_set[0])
    assert "\n" not in str(error.value)
