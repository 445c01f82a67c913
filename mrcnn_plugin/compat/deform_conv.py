"""Deformable convolution for Detectron2's layers on torchvision's operator, on the CPU and on CUDA.

Both libraries' operators come from one source and read the offsets alike: per deformable group, output pixel
and kernel element a pair (y, x), added to where the convolution would sample; bilinear samples, zeros outside
(Deformable Convolutional Networks, arXiv 1703.06211, Eq. 2; the modulation, arXiv 1811.11168, Eq. 1).
"""

from __future__ import annotations

from torch import Tensor
from torchvision.ops import deform_conv2d

_Size = int | tuple[int, int]


def deform_conv(
    input: Tensor,  # [N, C, H, W]
    offset: Tensor,  # [N, 2 * deformable_groups * h * w, H', W']
    weight: Tensor,  # [C', C / groups, h, w]
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
    im2col_step: int = 64,
) -> Tensor:  # [N, C', H', W']
    """Detectron2's `deform_conv` and its arguments; `im2col_step`, a matter of memory, has no effect."""
    return _convolved(input, offset, None, weight, None, stride, padding, dilation, groups, deformable_groups)


def modulated_deform_conv(
    input: Tensor,
    offset: Tensor,
    mask: Tensor,  # [N, deformable_groups * h * w, H', W']
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
    deformable_groups: int = 1,
) -> Tensor:
    """Detectron2's `modulated_deform_conv` and its arguments; `mask` is what each sample is multiplied by."""
    return _convolved(input, offset, mask, weight, bias, stride, padding, dilation, groups, deformable_groups)


def _convolved(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: _Size,
    padding: _Size,
    dilation: _Size,
    groups: int,
    deformable_groups: int,
) -> Tensor:
    if input.dim() != 4:
        raise ValueError(f"input must have shape (N, C, H, W), got {tuple(input.shape)}")
    if input.shape[1] != groups * weight.shape[1]:
        # torchvision derives the groups from these sizes.
        raise ValueError(
            f"input must have {groups * weight.shape[1]} channels for groups={groups}, got {input.shape[1]}"
        )
    kernel = weight.shape[2] * weight.shape[3]
    if offset.shape[1] != 2 * deformable_groups * kernel:
        raise ValueError(
            f"offset must have {2 * deformable_groups * kernel} channels for deformable_groups="
            f"{deformable_groups}, got {offset.shape[1]}"
        )
    return deform_conv2d(
        input, offset, weight, bias, stride=stride, padding=padding, dilation=dilation, mask=mask
    )
