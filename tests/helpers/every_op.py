"""Every op on random input: for tests of what processes and threads share."""

import torch

from mrcnn_plugin import ops


def every_op(seed: int) -> list:
    """Results of every op, and a gradient, on random input."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(2, 8, 20, 24, generator=generator).requires_grad_()
    corner = torch.rand(16, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + torch.rand(16, 2, generator=generator) * 50 + 1], dim=1)
    rois = torch.cat([torch.arange(16.0)[:, None] % 2, boxes], dim=1)
    pooled = ops.multi_level_roi_align([features, features[:, :, ::2, ::2]], rois, [0.25, 0.125], 7, 2)
    (gradient,) = torch.autograd.grad(pooled.square().sum(), features)
    masks = torch.rand(16, 28, 28, generator=generator)
    maps = torch.randn(16, 3, 14, 14, generator=generator)
    polygons = [[[*box[:2], box[2], box[1], *box[2:]]] for box in boxes.tolist()]
    return [
        pooled.detach(),
        gradient,
        ops.ROIPool(3, 0.25)(features.detach(), rois),
        ops.paste_masks(masks, boxes, (90, 80)),
        ops.heatmaps_to_keypoints(maps, boxes),
        ops.nms_segments(boxes, torch.tensor([0, 9, 16]), 0.3),
        ops.rasterize_polygons(polygons, boxes, 28),
        ops.encode_masks(masks, boxes, (90, 80)),
    ]


def same(one: list, other: list) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other))
