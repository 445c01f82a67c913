"""RoIAlign (Mask R-CNN, section 3) on one feature map or on a whole pyramid.

Axes: N images, C channels, H x W pixels of a feature map, K RoIs, L levels, P x Q bins of a pooled RoI.
Boxes are x1, y1, x2, y2 in image pixels; a level's scale is its size over the image's (1 / stride).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import library, roi_align_fallback, scripting

_MODES = ("avg", "max")
_FEATURE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@scripting.scripted_as(scripting.roi_align)
def roi_align(
    input: Tensor,  # [N, C, H, W]
    boxes: Tensor | Sequence[Tensor],  # [K, 5], or N tensors [K_n, 4]
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
) -> Tensor:  # [K, C, P, Q]
    """Pools each box of a feature map into a fixed number of bins; torchvision's signature and results.

    Args:
        input: feature map (N, C, H, W), float32, float16, bfloat16 or float64; any strides. Or quantized per
            tensor, of one image, as torchvision takes it: computed in float32.
        boxes: (K, 5) batch index, x1, y1, x2, y2 in image pixels, or a list of N tensors (K_n, 4). Used in
            float32 (float64 where `input` is float64 and they are too).
        output_size: bins P, Q, or one number for both.
        spatial_scale: size of `input` over the size of the image the boxes refer to.
        sampling_ratio: samples of a bin along each axis, at most 4096; <= 0: as many as it has feature
            pixels, rounded up.
        aligned: subtract half a feature pixel, so that pixel centres are meant (Detectron2's ROIAlignV2).
        mode: "avg", or "max" over the bilinear samples of a bin, the paper's other aggregation.

    Returns:
        (K, C, P, Q) in the dtype and memory format of `input`; quantized with its scale and zero point.

    Raises:
        ValueError, RuntimeError: wrong shape, dtype or device; on the CPU also a batch index outside [0, N)
            and boxes that are not finite. CUDA kernels cannot look without waiting for the device: such a
            RoI is NaN there, and nothing is read out of bounds.

    A pixel that is NaN or infinite makes the bins not finite that one of their samples reads it for, with a
    weight other than 0; every other number is what it would be without. A sample lies in the map up to and
    including one pixel before its first pixel's centre, and one behind its last one's; this is decided in
    float64 (torchvision decides in the dtype of the features).

    Differentiable once in `input`. The CPU backward always gives the same bits; the CUDA backward does
    under ``torch.use_deterministic_algorithms(True)``.
    """
    if not (isinstance(boxes, Tensor) and isinstance(input, Tensor)):
        if (proxy := scripting.a_proxy(input, boxes)) is not None:
            arguments = (input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
            return scripting.recorded(proxy, roi_align, *arguments, mode=mode)
        boxes = scripting.rois_of_lists(list(boxes), input)
    if input.is_quantized:
        size = list(_pair(output_size))
        return scripting.quantized_roi_align(input, boxes, size, spatial_scale, sampling_ratio, aligned, mode)
    return multi_level_roi_align(
        [input], boxes, [spatial_scale], output_size, sampling_ratio, aligned=aligned, mode=mode
    )


@scripting.scripted_as(scripting.multi_level_roi_align)
def multi_level_roi_align(
    features: Sequence[Tensor],  # L x [N, C, H_l, W_l]
    boxes: Tensor,  # [K, 5]
    scales: Sequence[float],
    output_size: int | tuple[int, int],
    sampling_ratio: int,
    *,
    canonical_box_size: float = 224,
    canonical_level: int = 4,
    aligned: bool = True,
    mode: str = "avg",
    levels: Tensor | None = None,  # [K]
) -> Tensor:  # [K, C, P, Q]
    """Pools each box from the pyramid level that fits its size, in one launch for all levels and images.

    A box of area a goes to level floor(canonical_level + log2(sqrt(a) / canonical_box_size)), clamped to the
    levels given (Feature Pyramid Networks, Eq. 1; rounded as Detectron2's ROIPooler rounds it).

    Args:
        features: L maps (N, C, H_l, W_l), finest first, of one dtype and device.
        boxes: (K, 5) batch index, x1, y1, x2, y2 in image pixels; see `roi_align`.
        scales: of each level, 1 / stride; halving from level to level.
        canonical_box_size, canonical_level: a box of that size, in image pixels, is pooled from that level
            (level l has stride 2^l).
        levels: (K,) int64, index into `features` of the level that pools each box, in place of the equation;
            so a box repeated L times is pooled from every level (PANet's adaptive feature pooling, arXiv
            1803.01534, section 3.2). On the CPU an index outside [0, L) is an error; on CUDA such a RoI is
            NaN and nothing is read out of bounds.

    Returns:
        (K, C, P, Q) in the dtype and memory format of `features[0]`.

    The other arguments, the errors and the gradient are those of `roi_align`.
    """
    if not isinstance(boxes, Tensor) and (proxy := scripting.a_proxy(boxes)) is not None:
        options = {
            "canonical_box_size": canonical_box_size,
            "canonical_level": canonical_level,
            "aligned": aligned,
            "mode": mode,
            "levels": levels,
        }
        arguments = (features, boxes, scales, output_size, sampling_ratio)
        return scripting.recorded(proxy, multi_level_roi_align, *arguments, **options)
    features = list(features)
    height, width = _pair(output_size)
    boxes = _check(features, boxes, scales, mode)
    _check_levels(levels, boxes)
    arguments = (
        features,
        boxes,
        [float(scale) for scale in scales],
        height,
        width,
        int(sampling_ratio),
        float(canonical_box_size),
        int(canonical_level),
        bool(aligned),
        mode == "max",
        levels,
    )
    if library.native(boxes.device.type):
        return torch.ops.mrcnn_plugin.multi_level_roi_align(*arguments)
    return roi_align_fallback.multi_level_roi_align(*arguments)


class ROIAlign(nn.Module):
    """`roi_align` as a module, with the constructor of Detectron2's ROIAlign."""

    def __init__(
        self,
        output_size: int | tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
        mode: str = "avg",
    ) -> None:
        super().__init__()
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {_MODES}, got {mode!r}")
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.mode = mode

    def forward(self, input: Tensor, rois: Tensor | list[Tensor]) -> Tensor:
        """(N, C, H, W) features and (K, 5) or N x (K_n, 4) boxes, as for `roi_align`, to (K, C, P, Q)."""
        return roi_align(
            input,
            rois,
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
            mode=self.mode,
        )

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}, mode={self.mode!r}"
        )


def _pair(output_size: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(output_size, (tuple, list)):
        if len(output_size) != 2:
            raise ValueError(f"output_size must be a number or a pair, got {output_size}")
        return output_size[0], output_size[1]
    return output_size, output_size


def _check(features: list[Tensor], boxes: Tensor, scales: Sequence[float], mode: str) -> Tensor:
    """Shapes, dtypes and devices, on every device alike; returns the boxes in the dtype the op takes."""
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {_MODES}, got {mode!r}")
    if not features or len(features) != len(scales):
        raise ValueError(
            f"features and scales must have one entry per level, got {len(features)} and {len(scales)}"
        )
    first = features[0]
    for level, feature in enumerate(features):
        if feature.dim() != 4 or feature.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"features[{level}] must have shape (N, C, H, W) with the N and C of features[0] "
                f"{tuple(first.shape)}, got {tuple(feature.shape)}"
            )
        if feature.dtype != first.dtype or feature.device != first.device:
            raise ValueError(
                f"features[{level}] must have the dtype and device of features[0] ({first.dtype}, "
                f"{first.device}), got {feature.dtype}, {feature.device}"
            )
    if first.dtype not in _FEATURE_DTYPES:
        how = "; dequantize them first: feature.dequantize()" if first.is_quantized else ""
        raise ValueError(f"features must have one of the dtypes {_FEATURE_DTYPES}, got {first.dtype}{how}")
    if boxes.dim() != 2 or boxes.shape[1] != 5:
        raise ValueError(f"boxes must have shape (K, 5), got {tuple(boxes.shape)}")
    if boxes.device != first.device:
        raise ValueError(f"boxes must be on the device of the features, {first.device}, got {boxes.device}")
    boxes = scripting.half_to_float32(boxes)
    if boxes.dtype != torch.float32 and not boxes.dtype == first.dtype == torch.float64:
        raise ValueError(
            f"boxes must be float32 (or float64 like the features), got {boxes.dtype}; use boxes.float()"
        )
    return boxes


def _check_levels(levels: Tensor | None, boxes: Tensor) -> None:
    if levels is None:
        return
    if levels.shape != boxes.shape[:1]:
        raise ValueError(f"levels must have shape (K,) = ({len(boxes)},), got {tuple(levels.shape)}")
    if levels.dtype != torch.int64 or levels.device != boxes.device:
        raise ValueError(
            f"levels must be int64 and on the device of the boxes, {boxes.device}, got {levels.dtype} on "
            f"{levels.device}"
        )


def _is_channels_last(feature: Tensor) -> bool:
    return feature.is_contiguous(memory_format=torch.channels_last) and not feature.is_contiguous()


def _empty(sizes: Sequence[int], like: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(sizes, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake_forward(features, boxes, scales, pooled_height, pooled_width, *_):
    sizes = (boxes.shape[0], features[0].shape[1], pooled_height, pooled_width)
    return _empty(sizes, features[0], _is_channels_last(features[0]))


def _fake_backward(grad_output, features, *_):
    channels_last = _is_channels_last(features[0])
    return [_empty(feature.shape, feature, channels_last) for feature in features]


def _setup_context(ctx, inputs, output):
    features, boxes, scales, _, _, *options, levels = inputs
    ctx.save_for_backward(boxes, levels, *features)
    ctx.scales = scales
    ctx.options = options


def _backward(ctx, grad_output):
    boxes, levels, *features = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    grads = torch.ops.mrcnn_plugin.multi_level_roi_align_backward(
        grad_output, features, boxes, ctx.scales, *ctx.options, deterministic, levels
    )
    # The dispatcher drops inputs that equal the schema's default, and wants no gradient for them.
    return grads, *[None] * (len(ctx.needs_input_grad) - 1)


def _setup_nothing(ctx, inputs, output):
    pass


def _double_backward(ctx, *grads):
    raise RuntimeError("double backward is not supported by roi_align: its gradient has no derivative here")


if library.STATUS["cpu"] is None:
    torch.library.register_fake("mrcnn_plugin::multi_level_roi_align", _fake_forward)
    torch.library.register_fake("mrcnn_plugin::multi_level_roi_align_backward", _fake_backward)
    torch.library.register_autograd(
        "mrcnn_plugin::multi_level_roi_align", _backward, setup_context=_setup_context
    )
    torch.library.register_autograd(
        "mrcnn_plugin::multi_level_roi_align_backward", _double_backward, setup_context=_setup_nothing
    )
