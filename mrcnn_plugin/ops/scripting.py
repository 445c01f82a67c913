"""What `torch.jit.script` compiles, and `torch.fx` records, in place of an op's Python wrapper.

TorchScript cannot compile the checks of the wrappers, and a symbolic trace cannot run them. A wrapper's
`__prepare_scriptable__`, PyTorch's hook for this, names a twin that TorchScript can compile; it calls the
operator, which checks its arguments itself. Eager calls do not pass through here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.fx
from torch import Tensor
from torch._jit_internal import BroadcastingList2  # type: ignore[attr-defined]

from . import library

_Function = TypeVar("_Function", bound=Callable[..., Any])


def scripted_as(
    twin: Callable[..., Any] | None, why_not: str = "", *, native: bool = True
) -> Callable[[_Function], _Function]:
    """Decorates a function for which `torch.jit.script` shall compile `twin`.

    Args:
        twin: compiled in its place, with the arguments of the same names; None: it cannot be scripted.
        why_not: the reason, and what there is instead.
        native: whether the twin calls an op of the native library.
    """

    def decorate(function: _Function) -> _Function:
        def prepare() -> Callable[..., Any]:
            if twin is None:
                raise RuntimeError(f"{function.__name__} cannot be scripted: {why_not}")
            if native and library.STATUS["cpu"] is not None:
                raise RuntimeError(
                    f"{function.__name__} cannot be scripted: TorchScript needs the native ops, and "
                    f"{library.STATUS['cpu']}"
                )
            return twin

        # By name: functions have no such attribute for the type checker.
        setattr(function, "__prepare_scriptable__", prepare)  # noqa: B010
        return function

    return decorate


def a_proxy(*arguments: Any) -> torch.fx.Proxy | None:
    """The first `torch.fx.Proxy` among arguments that are not tensors, or in the lists among them."""
    for argument in arguments:
        for one in argument if isinstance(argument, (list, tuple)) else (argument,):
            if isinstance(one, torch.fx.Proxy):
                return one
    return None


def recorded(proxy: torch.fx.Proxy, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """One node that calls `function`, in the graph that `proxy` belongs to."""
    return proxy.tracer.create_proxy("call_function", function, args, kwargs)


def rois_of_lists(boxes: list[Tensor], input: Tensor) -> Tensor:
    """Boxes of each of the N images of `input`, N x (K_n, 4), to (K, 5) with the batch index in front."""
    if len(boxes) != input.shape[0]:
        raise ValueError(f"boxes must be a list of {input.shape[0]} tensors, one per image, got {len(boxes)}")
    rois: list[Tensor] = []
    for image, one in enumerate(boxes):
        if one.dim() != 2 or one.shape[1] != 4:
            raise ValueError(f"boxes[{image}] must have shape (K, 4), got {list(one.shape)}")
        # Batch indices in half precision would be wrong from 2048 images on.
        rois.append(torch.nn.functional.pad(half_to_float32(one), [1, 0], value=float(image)))
    if len(rois) == 0:
        return torch.zeros([0, 5], dtype=torch.float32, device=input.device)
    return torch.cat(rois)


def half_to_float32(tensor: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, other dtypes unchanged; scriptable."""
    half = tensor.dtype == torch.float16 or tensor.dtype == torch.bfloat16
    return tensor.float() if half else tensor


def _is_max(mode: str) -> bool:
    if mode != "avg" and mode != "max":
        raise ValueError(f"mode must be one of ('avg', 'max'), got {mode}")
    return mode == "max"


def multi_level_roi_align(
    features: list[Tensor],
    boxes: Tensor,
    scales: list[float],
    output_size: BroadcastingList2[int],
    sampling_ratio: int,
    canonical_box_size: float = 224.0,
    canonical_level: int = 4,
    aligned: bool = True,
    mode: str = "avg",
    levels: Tensor | None = None,
) -> Tensor:
    """`mrcnn_plugin.ops.multi_level_roi_align` for TorchScript."""
    return torch.ops.mrcnn_plugin.multi_level_roi_align(
        features,
        half_to_float32(boxes),
        scales,
        output_size[0],
        output_size[1],
        sampling_ratio,
        canonical_box_size,
        canonical_level,
        aligned,
        _is_max(mode),
        levels,
    )


def roi_align(
    input: Tensor,
    boxes: Tensor | list[Tensor],
    output_size: BroadcastingList2[int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
) -> Tensor:
    """`mrcnn_plugin.ops.roi_align` for TorchScript; of quantized features `quantized_roi_align`."""
    if isinstance(boxes, Tensor):
        rois = boxes
    else:
        rois = rois_of_lists(boxes, input)
    if input.is_quantized:
        return quantized_roi_align(
            input, rois, [output_size[0], output_size[1]], spatial_scale, sampling_ratio, aligned, mode
        )
    size = [output_size[0], output_size[1]]
    return multi_level_roi_align(
        [input], rois, [spatial_scale], size, sampling_ratio, aligned=aligned, mode=mode
    )


def quantized_roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: list[int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    mode: str,
) -> Tensor:
    """RoIAlign of features quantized per tensor: computed in float32, quantized like the features.

    As torchvision's, it takes one image only, as a batch index need not be a quantized number.
    """
    if input.shape[0] != 1:
        raise RuntimeError(
            f"Only one image per batch is allowed where features are quantized, got {input.shape[0]}; "
            "dequantize them first: roi_align(input.dequantize(), ...)"
        )
    rois = rois.dequantize() if rois.is_quantized else rois.float()
    pooled = multi_level_roi_align(
        [input.dequantize()],
        rois,
        [spatial_scale],
        output_size,
        sampling_ratio,
        aligned=aligned,
        mode=mode,
    )
    return torch.quantize_per_tensor(pooled, input.q_scale(), input.q_zero_point(), input.dtype)


def paste_masks(masks: Tensor, boxes: Tensor, image_shape: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """`mrcnn_plugin.ops.paste_masks` for TorchScript."""
    height, width = image_shape
    return torch.ops.mrcnn_plugin.paste_masks(
        masks.detach().float().contiguous(), boxes.detach().float().contiguous(), height, width, threshold
    )


def paste_masks_into(masks: Tensor, boxes: Tensor, size: Tensor, threshold: float) -> Tensor:
    """`paste_masks` with the image's height and width in a tensor (2,), as a trace has them."""
    return paste_masks(masks, boxes, (int(size[0]), int(size[1])), threshold)


def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> Tensor:
    """`mrcnn_plugin.ops.heatmaps_to_keypoints` for TorchScript."""
    keypoints = torch.ops.mrcnn_plugin.heatmaps_to_keypoints(maps.detach().float(), rois.detach().float())
    return keypoints.double() if maps.dtype == torch.float64 else keypoints
