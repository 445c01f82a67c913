"""IoU of masks on the ground truth's boxes: sizes, formula, and a model that paints what it is given."""

import mask_iou
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances


def test_sizes_are_cocos():
    areas = (1, 1023, 1024, 9215, 9216)
    assert [mask_iou.size_of(a) for a in areas] == ["small", "small", "medium", "medium", "large"]


def test_iou_by_hand():
    predicted = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[0, 1], [1, 1]]]).bool()
    truth = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]], [[0, 1], [1, 1]]]).bool()
    assert mask_iou.mask_ious(predicted, truth) == pytest.approx([1 / 3, 0, 1])


def test_the_model_gets_the_true_boxes():
    truth = Instances((40, 60))
    truth.gt_boxes = Boxes(torch.tensor([[0.0, 0, 40, 40], [40, 0, 60, 20]]))
    truth.gt_classes = torch.tensor([1, 0])
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, :40, :40] = masks[1, :10, 40:] = True
    truth.gt_masks = BitMasks(masks)

    class Boxed:
        device = torch.device("cpu")

        def inference(self, inputs, detected_instances):
            (given,) = detected_instances
            assert (inputs[0]["height"], inputs[0]["width"]) == given.image_size == (40, 60)
            assert given.pred_classes.tolist() == [1, 0]
            painted = torch.zeros(2, 40, 60, dtype=torch.bool)
            for mask, (x0, y0, x1, y1) in zip(painted, given.pred_boxes.tensor.int().tolist()):
                mask[y0:y1, x0:x1] = True
            given.pred_masks = painted
            return [{"instances": given}]

    got = mask_iou.masks_on_true_boxes(Boxed(), {"image": torch.zeros(3, 40, 60), "instances": truth})
    assert got == [("medium", 1.0), ("small", 0.5)]


def test_rows():
    assert mask_iou.row("a", {"small": [0.5, 1.0], "large": [0.0]}) == ["a", "50.0", "75.0", "", "0.0"]
