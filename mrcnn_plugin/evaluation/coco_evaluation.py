"""COCO scoring that takes masks as RLE as well as bitmasks, by faster-coco-eval where it is installed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation import coco_evaluation as d2
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_plugin.data.coco_summary import COCO_KEYPOINTS, DEFAULT_OKS_SIGMA

TASKS = ("bbox", "segm", "keypoints")


class COCOEvaluator(d2.COCOEvaluator):
    """Detectron2's `COCOEvaluator`: same arguments, same files written, same keys of results. In addition:

    - Instances may hold `pred_masks_rle`, a list of N COCO RLE dicts of the image's size, in place of
      `pred_masks`. They are written and scored as they are.
    - Instances may hold `mask_scores`, N scores by which masks are ranked in place of `scores`, as Mask
      Scoring R-CNN's are; boxes keep `scores`. The results file has them as "mask_score" beside "score".
    - With `use_fast_impl` (default) faster-coco-eval scores where it is installed, else pycocotools, with
      equal numbers; `use_fast_impl=False` always takes pycocotools.
    - The predictions that are passed in are left as they are.
    - Without `kpt_oks_sigmas`, keypoints are scored by `oks_sigmas`: those of the data set, or a default.
    """

    #: Read by `takes_rle`.
    takes_rle = True
    #: Set by Detectron2: OKS sigmas, empty for COCO's own.
    _kpt_oks_sigmas: Any

    def __init__(self, *args: Any, use_fast_impl: bool = True, **kwargs: Any):
        # Detectron2's own fast implementation needs its compiled extension.
        super().__init__(*args, use_fast_impl=False, **kwargs)
        if not len(self._kpt_oks_sigmas):
            self._kpt_oks_sigmas = oks_sigmas(self._metadata)
        self._use_fast_impl = use_fast_impl and importlib.util.find_spec("faster_coco_eval") is not None

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """Keeps the predictions of some images.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances" (`Instances` with pred_boxes, scores, pred_classes and optionally
                pred_masks, (K, H, W) bool, or pred_masks_rle, mask_scores, and pred_keypoints,
                (K, num_keypoints, 3)), or "proposals".
        """
        for single_input, output in zip(inputs, outputs):
            prediction = {"image_id": single_input["image_id"]}
            if "instances" in output:
                prediction["instances"] = instances_to_coco_json(output["instances"], prediction["image_id"])
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def _eval_predictions(self, predictions: list[dict], img_ids: list[int] | None = None) -> None:
        """Writes the results file and fills `self._results`, task by task."""
        results = list(itertools.chain(*[prediction["instances"] for prediction in predictions]))
        tasks = sorted(self._tasks or self._tasks_from_predictions(results))
        unknown = set(tasks) - set(TASKS)
        if unknown:
            raise ValueError(f"tasks must be among {TASKS}, got {sorted(unknown)}")
        self._restore_category_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            self._logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        for task in tasks:
            scores = None
            if results:
                scores = evaluate_coco(
                    self._coco_api,
                    results,
                    task,
                    img_ids=img_ids,
                    max_dets=self._max_dets_per_image,
                    kpt_oks_sigmas=self._kpt_oks_sigmas,
                    faster=self._use_fast_impl,
                )
            names = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(scores, task, class_names=names)

    def _restore_category_ids(self, results: list[dict]) -> None:
        """From the model's contiguous classes to the data set's category ids, in place."""
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is None:
            return
        category_ids = {contiguous: dataset for dataset, contiguous in to_contiguous.items()}
        for result in results:
            predicted = result["category_id"]
            if predicted not in category_ids:
                raise ValueError(
                    f"a prediction has class {predicted}, but the data set has {len(category_ids)} classes: "
                    "set the model's num_classes to that number"
                )
            result["category_id"] = category_ids[predicted]


def oks_sigmas(metadata: Metadata) -> list[float]:
    """OKS sigmas of a data set's keypoints; none where COCO's own are meant.

    They are the metadata's `keypoint_oks_sigmas`, which `mrcnn_plugin.data` takes from "keypoint_sigmas" of
    COCO's categories; for another number of keypoints than COCO's 17, DEFAULT_OKS_SIGMA each.
    """
    own = metadata.get("keypoint_oks_sigmas")
    if own is not None:
        return list(own)
    number = len(metadata.get("keypoint_names") or ())
    return [] if number in (0, COCO_KEYPOINTS) else [DEFAULT_OKS_SIGMA] * number


def takes_rle(evaluator: DatasetEvaluator | Sequence[DatasetEvaluator]) -> bool:
    """Whether an evaluator, or each of several, takes `pred_masks_rle` in place of `pred_masks`."""
    if isinstance(evaluator, DatasetEvaluator):
        return getattr(evaluator, "takes_rle", False)
    return all(takes_rle(each) for each in evaluator)


def instances_to_coco_json(instances: Instances, image_id: int) -> list[dict]:
    """Detectron2's function of this name, taking `pred_masks_rle` and `mask_scores` too, changing nothing.

    Args:
        instances: N predictions on any device, boxes and keypoints in image pixels.
        image_id: of the image they belong to.

    Returns:
        N COCO result dicts: image_id, category_id (the model's class), bbox (xywh), score, and where there
        are any, segmentation (RLE with counts as str), mask_score, and keypoints (x, y, score; x and y less
        0.5, which are COCO's pixel indices).
    """
    plain = Instances(instances.image_size)
    rles = None
    for name, value in instances.get_fields().items():
        if name == "pred_masks_rle":
            rles = value
        elif name != "pred_masks" or not instances.has("pred_masks_rle"):
            # Detectron2 subtracts the half pixel in place.
            plain.set(name, value.clone() if name == "pred_keypoints" else value)
    results = d2.instances_to_coco_json(plain.to("cpu"), image_id)
    if rles is not None:
        for result, rle in zip(results, rles, strict=True):
            counts = rle["counts"]
            counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
            result["segmentation"] = {"size": list(rle["size"]), "counts": counts}
    if instances.has("mask_scores"):
        for result, score in zip(results, instances.mask_scores.tolist(), strict=True):
            result["mask_score"] = score
    return results


def evaluate_coco(
    ground_truth: COCO,
    results: list[dict],
    task: str,
    *,
    img_ids: Iterable[int] | None = None,
    max_dets: Sequence[int] = (1, 10, 100),
    kpt_oks_sigmas: Sequence[float] = (),
    faster: bool = True,
    dilation_ratio: float = 0.02,
) -> Any:
    """Scores COCO result dicts, at least one, against annotations.

    Args:
        ground_truth: pycocotools' COCO of the annotations.
        results: dicts as in COCO's results format; not changed. A mask's "mask_score" goes before "score".
        task: "bbox", "segm", "keypoints", or "boundary": masks by the lesser of their IoU and that of their
            boundaries (Boundary IoU, arXiv 2103.16562), which only faster-coco-eval has.
        img_ids: images to score; all by default.
        max_dets: numbers of detections per image, the last one for AP; of no effect on keypoints.
        kpt_oks_sigmas: of OKS, one per keypoint; COCO's 17 by default.
        faster: by faster-coco-eval, which must be installed; else by pycocotools.
        dilation_ratio: width of a boundary, inwards, as a part of the image's diagonal; for "boundary" only.

    Returns:
        The COCOeval object, with `stats` (COCO's 12 or 10 numbers) and `eval`.
    """
    if task == "boundary" and not faster:
        raise ValueError("task 'boundary' needs faster-coco-eval: pip install faster-coco-eval")
    # Both libraries write into what they are given.
    results = [_as_mask(result) if task in ("segm", "boundary") else dict(result) for result in results]
    scorer_class, coco_class = _scorer(faster, custom_max_dets=task != "keypoints" and max_dets[-1] != 100)
    coco = coco_class()
    coco.dataset = ground_truth.dataset | {
        "annotations": [dict(annotation) for annotation in ground_truth.dataset["annotations"]]
    }
    coco.createIndex()
    options = {"boundary_dilation_ratio": dilation_ratio} if task == "boundary" else {}
    scorer = scorer_class(coco, coco.loadRes(results), task, **options)
    # faster-coco-eval leaves out categories without an image in keypoint evaluation.
    scorer.params.catIds = sorted(coco.getCatIds())
    if img_ids is not None:
        scorer.params.imgIds = list(img_ids)
    if task == "keypoints":
        if len(kpt_oks_sigmas):
            scorer.params.kpt_oks_sigmas = np.array(kpt_oks_sigmas)
        _check_keypoints(ground_truth, results, len(scorer.params.kpt_oks_sigmas))
    else:
        scorer.params.maxDets = list(max_dets)
    scorer.evaluate()
    scorer.accumulate()
    scorer.summarize()
    return scorer


def _as_mask(result: dict) -> dict:
    """The part of a result that is about its mask: without a box, a mask's own area says how large it is."""
    mask = {key: value for key, value in result.items() if key not in ("bbox", "mask_score")}
    return mask | {"score": result.get("mask_score", result["score"])}


def _scorer(faster: bool, custom_max_dets: bool) -> tuple[type, type]:
    """COCOeval and COCO of one library; their own summary knows no more than 100 detections per image."""
    if not faster:
        return d2.COCOevalMaxDets if custom_max_dets else COCOeval, COCO
    import faster_coco_eval

    class FasterCOCOeval(faster_coco_eval.COCOeval_faster):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, print_function=print, **kwargs)

        if custom_max_dets:
            summarize = d2.COCOevalMaxDets.summarize

    return FasterCOCOeval, faster_coco_eval.COCO


def _check_keypoints(ground_truth: COCO, results: list[dict], num_sigmas: int) -> None:
    annotated = next((len(a["keypoints"]) for a in ground_truth.anns.values() if "keypoints" in a), None)
    if annotated is None:
        raise ValueError("the ground truth has no keypoints to score predictions against")
    predicted = len(results[0]["keypoints"])
    if not annotated == predicted == 3 * num_sigmas:
        raise ValueError(
            f"predictions have {predicted // 3} keypoints, the ground truth has {annotated // 3} and "
            f"kpt_oks_sigmas has {num_sigmas}: pass one sigma a keypoint of the data set"
        )
