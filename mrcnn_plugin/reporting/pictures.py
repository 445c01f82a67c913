"""Pictures of instances: overlays, and predictions beside ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.data import detection_utils as utils
from detectron2.evaluation.evaluator import inference_context
from detectron2.structures import BoxMode, Instances, PolygonMasks
from matplotlib.figure import Figure
from torch import nn

from mrcnn_plugin.atomic_files import replacing

from .drawing import draw_instances

# Distinct, and distinct from grey images; further classes step through the hues.
_PALETTE = (
    *((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 200, 220)),
    *((240, 50, 230), (190, 200, 40), (0, 128, 128), (170, 110, 40)),
)


def class_color(index: int, metadata: Metadata) -> tuple[float, float, float]:
    """The colour in which every picture draws a class: RGB in [0, 1]."""
    colors = metadata.get("thing_colors") or _PALETTE
    red, green, blue = colors[index % len(colors)]
    return red / 255, green / 255, blue / 255


def class_name(index: int, metadata: Metadata) -> str:
    """Name of a contiguous class id; the id itself where the data set has no names."""
    names = metadata.get("thing_classes") or ()
    return names[index] if index < len(names) else f"class {index}"


def draw_predictions(
    image: np.ndarray,
    instances: Instances,
    metadata: Metadata,
    *,
    view: int | None = None,
    overwrite: bool = False,
) -> np.ndarray:
    """Draws masks, boxes, class names with scores, and skeletons.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: of image size (H, W), on the CPU.
        view, overwrite: see `mrcnn_plugin.reporting.drawing.draw_instances`.

    Returns:
        (H', W', 3) uint8 RGB; small images are enlarged.
    """
    classes = instances.pred_classes.tolist()
    labels = [
        f"{class_name(index, metadata)} {score:.0%}"
        for index, score in zip(classes, instances.scores.tolist())
    ]
    return draw_instances(
        image,
        metadata,
        [class_color(index, metadata) for index in classes],
        labels,
        boxes=instances.pred_boxes.tensor.numpy(),
        masks=instance_masks(instances),
        keypoints=instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None,
        view=view,
        overwrite=overwrite,
    )


def instance_masks(instances: Instances) -> list | None:
    """Masks of image size, as bool (H, W) arrays or COCO RLE dicts; None where the model gives none."""
    if instances.has("pred_masks_rle"):
        return list(instances.pred_masks_rle)
    if instances.has("pred_masks") and instances.pred_masks.shape[1:] == instances.image_size:
        return list(instances.pred_masks.cpu().numpy())
    return None


def draw_ground_truth(image: np.ndarray, annotations: Sequence[dict], metadata: Metadata) -> np.ndarray:
    """Draws a dataset dict's annotations as `draw_predictions` draws predictions; crowds are left out.

    Skeletons come without masks, as those who predict keypoints rarely predict both.
    """
    annotations = [a for a in annotations if not a.get("iscrowd", 0)]
    classes = [a["category_id"] for a in annotations]
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    masks = [a.get("segmentation") for a in annotations]
    keypoints = [a.get("keypoints") for a in annotations]
    has_keypoints = bool(keypoints) and all(keypoints)
    return draw_instances(
        image,
        metadata,
        [class_color(index, metadata) for index in classes],
        [class_name(index, metadata) for index in classes],
        boxes=np.asarray(boxes, dtype=np.float64).reshape(-1, 4),
        masks=masks if all(masks) and not has_keypoints else None,
        keypoints=np.asarray(keypoints, dtype=float).reshape(len(keypoints), -1, 3)
        if has_keypoints
        else None,
    )


def draw_targets(image: np.ndarray, instances: Instances, metadata: Metadata) -> np.ndarray:
    """Draws what a mapper hands to the model for training, as `draw_predictions` draws predictions.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: of image size (H, W), with `gt_boxes`, `gt_classes`, and `gt_masks` (polygons or bitmasks)
            and `gt_keypoints` where the mapper gives them.
    """
    classes = instances.gt_classes.tolist()
    masks: Sequence | None = None
    if instances.has("gt_masks"):
        given = instances.gt_masks
        if isinstance(given, PolygonMasks):
            masks = [[np.asarray(part).tolist() for part in parts] for parts in given.polygons]
        else:
            masks = list(given.tensor.bool().numpy())
    return draw_instances(
        image,
        metadata,
        [class_color(index, metadata) for index in classes],
        [class_name(index, metadata) for index in classes],
        boxes=instances.gt_boxes.tensor.numpy(),
        masks=masks,
        keypoints=instances.gt_keypoints.tensor.numpy() if instances.has("gt_keypoints") else None,
    )


def above(instances: Instances, threshold: float) -> Instances:
    """The instances of at least this score, on the CPU."""
    return instances[instances.scores >= threshold].to("cpu")


def predictions_picture(
    model: nn.Module,
    mapper: Callable[[dict], dict],
    dataset_dicts: Sequence[dict],
    metadata: Metadata,
    path: str,
    *,
    threshold: float = 0.5,
    pairs: int = 6,
) -> None:
    """Writes a picture of ground truth | prediction pairs.

    Args:
        model: evaluated in eval mode, and left in the mode that it was in.
        mapper: maps a dataset dict to the model's input at test time.
        dataset_dicts: of one test set; `pairs` of those with objects are chosen, evenly spread.
        metadata: of that set.
        path: the PNG file.
        threshold: predictions with a lower score are not drawn.
    """
    has_objects = [any(not a.get("iscrowd", 0) for a in d.get("annotations", ())) for d in dataset_dicts]
    pool = [d for d, has in zip(dataset_dicts, has_objects) if has] or list(dataset_dicts)
    chosen = np.unique(np.linspace(0, len(pool) - 1, min(pairs, len(pool))).astype(int))
    cells = []
    with inference_context(model), torch.no_grad():
        for record in (pool[index] for index in chosen):
            instances = model([mapper(record)])[0]["instances"]
            image = utils.read_image(record["file_name"], format="RGB")
            cells.append(draw_ground_truth(image, record.get("annotations", ()), metadata))
            cells.append(draw_predictions(image, above(instances, threshold), metadata))
    with replacing(path) as part:
        _grid(cells, threshold).savefig(part, format="png")


def _grid(cells: Sequence[np.ndarray], threshold: float) -> Figure:
    """Cells in rows of two pairs, the pairs a little apart."""
    pairs_a_row = min(2, len(cells) // 2)
    rows = -(-len(cells) // (2 * pairs_a_row))
    aspect = float(np.median([cell.shape[0] / cell.shape[1] for cell in cells]))
    width = 3.4
    figure = Figure(figsize=(2 * pairs_a_row * width, rows * width * aspect + 0.4), dpi=110)
    grid = figure.add_gridspec(
        rows,
        3 * pairs_a_row - 1,
        width_ratios=[1, 1, 0.06][: 3 * pairs_a_row - 1] + [1, 1] * (pairs_a_row - 1),
        left=0.01,
        right=0.99,
        bottom=0.01,
        top=1 - 0.32 / figure.get_figheight(),
        wspace=0.02,
        hspace=0.03,
    )
    for index, cell in enumerate(cells):
        row, column = divmod(index, 2 * pairs_a_row)
        axes = figure.add_subplot(grid[row, column + column // 2])
        axes.imshow(cell)
        axes.set_axis_off()
        if row == 0:
            title = f"prediction (score \u2265 {threshold:g})" if column % 2 else "ground truth"
            axes.set_title(title, fontsize=10)
    return figure
