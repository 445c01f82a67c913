"""The pooling that RoIAlign is compared with: RoIPool and RoIWarp (Mask R-CNN, section 4.2 and Table 2c).

Both quantise the RoI to the feature grid, which is what RoIAlign does without; they differ in the sampling.
"""

import torch
import torchvision
from torch import Tensor, nn
from torch._jit_internal import BroadcastingList2  # type: ignore[attr-defined]

from . import scripting
from .roi_align import roi_align
from .scripting import half_to_float32, rois_of_lists


def rois_tensor(rois: Tensor | list[Tensor], input: Tensor) -> Tensor:
    """(K, 5) boxes of either form that the modules take; scriptable."""
    if isinstance(rois, Tensor):
        return rois
    return rois_of_lists(rois, input)


def _scripted_roi_pool(
    input: Tensor,
    rois: Tensor | list[Tensor],
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
) -> Tensor:
    features = half_to_float32(input)
    boxes = rois_tensor(rois, input).to(features.dtype)
    pooled = torchvision.ops.roi_pool(features, boxes, [output_size[0], output_size[1]], spatial_scale)
    return pooled.to(input.dtype)


@scripting.scripted_as(_scripted_roi_pool, native=False)
def roi_pool(
    input: Tensor,
    rois: Tensor | list[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Tensor:
    """(N, C, H, W) features and boxes to (K, C, P, Q), as `ROIPool`; torchvision's signature."""
    if not isinstance(input, Tensor) and (proxy := scripting.a_proxy(input)) is not None:
        return scripting.recorded(proxy, roi_pool, input, rois, output_size, spatial_scale)
    features = half_to_float32(input)
    boxes = rois_tensor(rois, input).to(features.dtype)
    return torchvision.ops.roi_pool(features, boxes, output_size, spatial_scale).to(input.dtype)


class ROIPool(nn.Module):
    """RoIPool (Fast R-CNN, section 2.1): RoI and bins are rounded to pixels; a bin's largest pixel.

    torchvision's operator. It demands one dtype of features and boxes. float16 boxes would be off by pixels
    and bfloat16 is not supported, so half precision is pooled in float32 and cast back.

    Args:
        output_size: bins P, Q, or one number for both.
        spatial_scale: size of the features over the size of the image the boxes refer to.
    """

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """(N, C, H, W) features and (K, 5) or N x (K_n, 4) xyxy boxes in image pixels, to (K, C, P, Q)."""
        return roi_pool(input, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


def _scripted_roi_warp(
    input: Tensor,
    rois: Tensor | list[Tensor],
    output_size: BroadcastingList2[int],
    spatial_scale: float,
    sampling_ratio: int,
    mode: str,
) -> Tensor:
    warped = quantize_rois(rois_tensor(rois, input), spatial_scale)
    size = (output_size[0], output_size[1])
    return roi_align(input, warped, size, 1.0, sampling_ratio, True, mode=mode)


@scripting.scripted_as(_scripted_roi_warp)
def roi_warp(
    input: Tensor,
    rois: Tensor | list[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    mode: str,
) -> Tensor:
    """(N, C, H, W) features and boxes to (K, C, P, Q), as `ROIWarp`."""
    if not isinstance(input, Tensor) and (proxy := scripting.a_proxy(input)) is not None:
        arguments = (input, rois, output_size, spatial_scale, sampling_ratio, mode)
        return scripting.recorded(proxy, roi_warp, *arguments)
    warped = quantize_rois(rois_tensor(rois, input), spatial_scale)
    # Pixel i covers [i - 0.5, i + 0.5] around its centre once half a pixel is subtracted.
    return roi_align(input, warped, output_size, 1.0, sampling_ratio, True, mode=mode)


class ROIWarp(nn.Module):
    """RoIWarp: bilinear samples as in RoIAlign, but of a RoI quantised to the feature grid.

    Its corners are rounded to whole feature pixels, as RoIPool rounds them, last pixel included; the bins are
    not rounded and are sampled bilinearly.

    Args:
        output_size: bins P, Q, or one number for both.
        spatial_scale: size of the features over the size of the image the boxes refer to.
        sampling_ratio: samples of a bin along each axis; <= 0: as many as it has feature pixels, rounded up.
        mode: "max" or "avg" over the samples of a bin (Table 2c has both).
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int = 0,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.mode = mode

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """(N, C, H, W) features and (K, 5) or N x (K_n, 4) xyxy boxes in image pixels, to (K, C, P, Q)."""
        return roi_warp(
            input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, mode=self.mode
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, mode={self.mode!r}"
        )


def quantize_rois(rois: Tensor, spatial_scale: float) -> Tensor:
    """(K, 5) boxes in image pixels to the pixels of the features that RoIPool takes them to cover.

    Corners are multiplied by the scale and rounded, halves away from zero; the second corner's pixel belongs
    to the RoI, which is at least one pixel wide. Returned as (K, 5) edges in feature pixels.
    """
    rois = half_to_float32(rois)
    scaled = rois[:, 1:] * spatial_scale
    corners = torch.copysign((scaled.abs() + 0.5).floor(), scaled)
    first = corners[:, :2]
    last = torch.maximum(corners[:, 2:] + 1, first + 1)
    return torch.cat([rois[:, :1], first, last], dim=1)
