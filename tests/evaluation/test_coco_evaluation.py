import json
import math
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.evaluation import COCOEvaluator as Detectron2Evaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mrcnn_plugin.evaluation.coco_evaluation import (
    COCOEvaluator,
    evaluate_coco,
    instances_to_coco_json,
    oks_sigmas,
)
from mrcnn_plugin.ops import encode_masks, paste_masks

HEIGHT, WIDTH, IMAGES, CATEGORIES = 120, 160, 12, (3, 7, 8)


def random_boxes(rng, n):
    size = rng.uniform(5, 80, (n, 2))
    corner = rng.uniform(0, 1, (n, 2)) * (np.array([WIDTH, HEIGHT]) - size)
    return np.concatenate([corner, corner + size], axis=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set in COCO's format on disk, and predictions near its annotations: (name, outputs)."""
    rng = np.random.default_rng(0)
    annotations, outputs = [], []
    for image in range(IMAGES):
        n = int(rng.integers(1, 8)) if image else 0
        boxes = random_boxes(rng, n)
        masks = torch.from_numpy(rng.uniform(0.2, 1, (n, 14, 14))).float()
        keypoints = (
            rng.uniform(0, 1, (n, 17, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2]) + boxes[:, None, :2]
        )
        classes = rng.integers(0, 2, n)  # the last category has no instance
        rles, areas, tight = encode_masks(
            masks, torch.from_numpy(boxes).float(), (HEIGHT, WIDTH), 0.5, return_stats=True
        )
        for i in range(n):
            visible = rng.integers(0, 3, (17, 1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 100,
                    "category_id": CATEGORIES[classes[i]],
                    "iscrowd": int(rng.random() < 0.15),
                    "area": int(areas[i]),
                    "bbox": tight[i].tolist(),
                    "segmentation": rles[i] | {"counts": rles[i]["counts"].decode()},
                    "keypoints": np.concatenate([keypoints[i], visible], axis=1).flatten().tolist(),
                    "num_keypoints": int((visible > 0).sum()),
                }
            )
        extra = int(rng.integers(0, 4))
        boxes = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), random_boxes(rng, extra)])
        instances = Instances((HEIGHT, WIDTH))
        instances.pred_boxes = Boxes(torch.from_numpy(boxes).float())
        instances.scores = torch.from_numpy(rng.uniform(0.1, 1, n + extra).round(1)).float()
        instances.pred_classes = torch.from_numpy(np.append(classes, rng.integers(0, 3, extra))).long()
        noisy = np.concatenate(
            [keypoints + rng.normal(0, 2, keypoints.shape), rng.uniform(0, 99, (extra, 17, 2))]
        )
        instances.pred_keypoints = torch.from_numpy(
            np.pad(noisy, ((0, 0), (0, 0), (0, 1)), constant_values=1.0)
        )
        probabilities = torch.cat([masks, torch.rand(extra, 14, 14)])
        instances.pred_masks = paste_masks(probabilities, instances.pred_boxes, (HEIGHT, WIDTH))
        instances.pred_masks_rle = encode_masks(probabilities, instances.pred_boxes, (HEIGHT, WIDTH))
        outputs.append(instances)
    path = tmp_path_factory.mktemp("coco") / "annotations.json"
    images = [{"id": i + 100, "height": HEIGHT, "width": WIDTH, "file_name": ""} for i in range(IMAGES)]
    categories = [{"id": c, "name": f"c{c}", "keypoints": [str(k) for k in range(17)]} for c in CATEGORIES]
    path.write_text(
        json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories})
    )
    name = f"random_coco_{path.parent.name}"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(
        json_file=str(path),
        thing_classes=[f"c{c}" for c in CATEGORIES],
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(CATEGORIES)},
    )
    yield name, outputs
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def without(instances, *names):
    kept = Instances(instances.image_size)
    for name, value in instances.get_fields().items():
        if name not in names:
            kept.set(name, value.clone() if name == "pred_keypoints" else value)
    return kept


def run(evaluator, outputs):
    evaluator.reset()
    for i, instances in enumerate(outputs):
        evaluator.process([{"image_id": i + 100}], [{"instances": instances}])
    return evaluator.evaluate()


def assert_same(ours, theirs, tolerance=1e-10):
    assert list(ours) == list(theirs)
    for task in theirs:
        assert list(ours[task]) == list(theirs[task])
        np.testing.assert_allclose(
            list(ours[task].values()), list(theirs[task].values()), atol=tolerance, rtol=0
        )


@pytest.mark.parametrize("max_dets", [None, 3, 300])
@pytest.mark.parametrize("use_fast_impl", [True, False])
def test_equals_detectron2(data, tmp_path, use_fast_impl, max_dets):
    name, outputs = data
    bitmasks = [without(o, "pred_masks_rle") for o in outputs]
    expected = run(
        Detectron2Evaluator(
            name, distributed=False, output_dir=str(tmp_path / "theirs"), max_dets_per_image=max_dets,
            use_fast_impl=False,
        ),
        bitmasks,
    )  # fmt: skip
    assert set(expected) == {"bbox", "segm", "keypoints"}
    assert 5 < expected["segm"]["AP"] < 95
    for kind, predictions in (
        ("bitmasks", [without(o, "pred_masks_rle") for o in outputs]),
        ("rle", [without(o, "pred_masks") for o in outputs]),
    ):
        evaluator = COCOEvaluator(
            name, distributed=False, output_dir=str(tmp_path / kind), max_dets_per_image=max_dets,
            use_fast_impl=use_fast_impl,
        )  # fmt: skip
        assert_same(run(evaluator, predictions), expected)
        written = (tmp_path / kind / "coco_instances_results.json").read_text()
        theirs = (tmp_path / "theirs" / "coco_instances_results.json").read_text()
        assert json.loads(written) == json.loads(theirs)


@pytest.mark.parametrize("task", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("img_ids", [None, [103, 105, 106]])
def test_libraries_give_equal_stats(data, task, img_ids):
    name, outputs = data
    coco = COCO(MetadataCatalog.get(name).json_file)
    results = [r for i, o in enumerate(outputs) for r in instances_to_coco_json(o, i + 100)]
    for result in results:
        result["category_id"] = CATEGORIES[result["category_id"]]
    before = json.dumps([results, coco.dataset])
    faster, plain = (
        evaluate_coco(coco, results, task, img_ids=img_ids, faster=faster) for faster in (True, False)
    )
    assert type(faster).__mro__[1].__module__.startswith("faster_coco_eval")
    assert len(plain.stats) == (10 if task == "keypoints" else 12)
    np.testing.assert_allclose(faster.stats[: len(plain.stats)], plain.stats, atol=1e-12, rtol=0)
    np.testing.assert_allclose(faster.eval["precision"], plain.eval["precision"], atol=1e-12, rtol=0)
    assert json.dumps([results, coco.dataset]) == before


def test_without_faster_coco_eval(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    name, outputs = data
    assert run(COCOEvaluator(name, distributed=False), outputs)["segm"]["AP"] > 5


def test_json_of_instances_leaves_them_unchanged(data):
    _, outputs = data
    instances = outputs[3]
    keypoints, codes = instances.pred_keypoints.clone(), [dict(rle) for rle in instances.pred_masks_rle]
    results = instances_to_coco_json(instances, 5)
    assert torch.equal(instances.pred_keypoints, keypoints)
    assert instances.pred_masks_rle == codes
    assert instances.has("pred_masks")
    for i, result in enumerate(results):
        assert result["image_id"] == 5
        assert result["segmentation"]["counts"].encode() == codes[i]["counts"]
        assert (coco_mask.decode(result["segmentation"]) == instances.pred_masks[i].numpy()).all()
        x0, y0, x1, y1 = instances.pred_boxes.tensor[i].tolist()
        assert result["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0])
        assert result["keypoints"][:2] == pytest.approx((keypoints[i, 0, :2] - 0.5).tolist())
    assert instances_to_coco_json(Instances((5, 5), **_empty()), 5) == []


@pytest.mark.parametrize("use_fast_impl", [True, False])
def test_mask_scores_rank_masks_only(data, tmp_path, use_fast_impl):
    name, outputs = data
    rng = np.random.default_rng(1)
    scored, replaced = [], []
    for instances in outputs:
        scores = torch.from_numpy(rng.uniform(-0.1, 1.1, len(instances))).float()
        scored.append(without(instances, "pred_keypoints"))
        scored[-1].mask_scores = scores
        replaced.append(without(instances, "pred_keypoints"))
        replaced[-1].scores = scores
    options = {"distributed": False, "use_fast_impl": use_fast_impl}
    results = run(COCOEvaluator(name, output_dir=str(tmp_path), **options), scored)
    plain = run(COCOEvaluator(name, **options), outputs)
    assert_same({"bbox": results["bbox"]}, {"bbox": plain["bbox"]})
    assert_same({"segm": results["segm"]}, {"segm": run(COCOEvaluator(name, **options), replaced)["segm"]})
    assert results["segm"]["AP"] != pytest.approx(plain["segm"]["AP"], abs=0.1)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [r["mask_score"] for r in written] == torch.cat([s.mask_scores for s in scored]).tolist()
    assert [r["score"] for r in written] == torch.cat([s.scores for s in scored]).tolist()


def _empty():
    return {
        "pred_boxes": Boxes(torch.zeros(0, 4)),
        "scores": torch.zeros(0),
        "pred_classes": torch.zeros(0, dtype=torch.long),
        "pred_masks_rle": [],
    }


def test_no_predictions(data, tmp_path):
    name, _ = data
    evaluator = COCOEvaluator(name, ("bbox", "segm"), distributed=False, output_dir=str(tmp_path))
    results = run(evaluator, [Instances((HEIGHT, WIDTH), **_empty())] * IMAGES)
    assert list(results) == ["bbox", "segm"]
    assert all(math.isnan(value) for task in results.values() for value in task.values())
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []
    assert run(evaluator, []) == {}


def test_errors(data):
    name, outputs = data
    with pytest.raises(ValueError, match="tasks must be among"):
        run(COCOEvaluator(name, ("box",), distributed=False), outputs)
    with pytest.raises(ValueError, match="17 keypoints, the ground truth has 17 and kpt_oks_sigmas has 3"):
        run(COCOEvaluator(name, ("keypoints",), distributed=False, kpt_oks_sigmas=[0.1] * 3), outputs)
    wrong = without(outputs[2], "pred_masks")
    wrong.pred_classes = wrong.pred_classes + 3
    with pytest.raises(ValueError, match="but the data set has 3 classes: set the model's num_classes"):
        run(COCOEvaluator(name, distributed=False), [wrong])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"keypoint_names": ["k"] * 17}, []),
        ({"keypoint_names": ["k"] * 5}, [0.067] * 5),
        ({"keypoint_names": ["k"] * 2, "keypoint_oks_sigmas": (0.02, 0.03)}, [0.02, 0.03]),
    ],
)
def test_oks_sigmas(fields, expected):
    assert oks_sigmas(Metadata(**fields)) == expected
