"""Heads on RoI features that lie channels last: what is flattened or multiplied stays where it is."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, ROIHeads
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.projects.point_rend.mask_head import ConvFCHead
from torch import Tensor, nn

from mrcnn_plugin.modeling import FCNMaskHead, OneHotKeypointHead, SoftmaxMaskHead
from mrcnn_plugin.modeling.roi_linear import RoILinear
from mrcnn_plugin.ops import has_matrix_tiles, split_conv2d, split_weight

from .convolution import fits_matrix_tiles, fuse
from .substitution import specialize

# Whose features, 12 MB in a mask head of 256 channels, the caches of some cores hold.
_ROIS_AT_ONCE = 16


class ChannelsLastFlatten(nn.Module):
    """Flattens the last three axes in the order H, W, C: a view of what lies channels last."""

    def forward(self, x: Tensor) -> Tensor:
        """(K, C, H, W) -> (K, H * W * C), or (K, L, C, H, W) -> (K, L, H * W * C)."""
        return x.movedim(-3, -1).flatten(-3)


class _CoarseHead(ConvFCHead):
    """PointRend's coarse head."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.conv_layers:
            x = layer(x)
        x = x.movedim(-3, -1).flatten(1)
        for layer in self.fcs:
            x = layer(x).relu_()
        return self.prediction(x).view(len(x), *self.output_shape)


class SubpixelDeconvolution(nn.Module):
    """A 2x2 deconvolution of stride 2 as one matrix product, its four outputs per pixel side by side.

    The result is not put in the order of the finer map's pixels: what follows treats each pixel alone.
    """

    split: Tensor | None

    def __init__(self, deconv: nn.ConvTranspose2d) -> None:
        super().__init__()
        weight = deconv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)  # (4C', C)
        bias = None if deconv.bias is None else deconv.bias.detach().repeat(4)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.relu = False
        # The weight for `split_conv2d`, where `use_matrix_tiles_in_heads` chose that.
        self.register_buffer("split", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(K, C, H, W) -> (K, C', H, 4W), column 4w + 2i + j being the finer map's pixel (2h + i, 2w + j)."""
        if self.split is not None and torch.compiler.is_compiling():
            x = x.contiguous(memory_format=torch.channels_last)
        # (K, H, W, 4C')
        if self.split is not None and fits_matrix_tiles(x, self.split):
            y = split_conv2d(x, self.split, len(self.weight), self.bias, relu=self.relu).permute(0, 2, 3, 1)
        else:
            y = F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias)
            y = y.relu_() if self.relu else y
        return y.unflatten(3, (4, -1)).flatten(2, 3).permute(0, 3, 1, 2)


def in_order(logits: Tensor) -> Tensor:
    """(K, C, H, 4W) as SubpixelDeconvolution has them -> (K, C, 2H, 2W)."""
    return logits.unflatten(3, (-1, 2, 2)).movedim(4, 3).flatten(2, 3).flatten(3, 4)


class _OnSubpixels(FCNMaskHead):
    """FCNMaskHead behind a SubpixelDeconvolution: only the logits that are kept change places."""

    def masks_of(self, x: Tensor, classes: list[Tensor]) -> Tensor:
        """As FCNMaskHead's, a few RoIs at a time: what a layer writes is still in the caches for the next."""
        if not classes or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return super().masks_of(x, classes)
        parts = zip(x.split(_ROIS_AT_ONCE), torch.cat(classes).split(_ROIS_AT_ONCE))
        return torch.cat([super(_OnSubpixels, self).masks_of(part, [kept]) for part, kept in parts])

    def predict(self, x: Tensor, classes: list[Tensor]) -> Tensor:
        return in_order(super().predict(x, classes))

    def layers(self, x: Tensor) -> Tensor:
        return in_order(super().layers(x))


def _fuse_activations(head: nn.Module) -> None:
    """An activation that follows a convolution or a linear layer joins it, or overwrites its result."""
    children = list(head.named_children())
    for (_, layer), (name, activation) in itertools.pairwise(children):
        if type(activation) is nn.ReLU:
            if isinstance(layer, SubpixelDeconvolution):
                layer.relu = True
                setattr(head, name, nn.Identity())
            elif fuse(layer, activation):
                setattr(head, name, nn.Identity())
            elif isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                activation.inplace = True


def _use_subpixels(head: FCNMaskHead) -> None:
    deconv = head.deconv
    plain = deconv.kernel_size == deconv.stride == (2, 2) and deconv.padding == deconv.output_padding == (
        0,
        0,
    )
    known = type(head) is SoftmaxMaskHead or type(head).forward is FCNMaskHead.forward
    if known and type(head).predict is FCNMaskHead.predict and plain and deconv.groups == 1:
        head.deconv = SubpixelDeconvolution(deconv)
        specialize(head, _OnSubpixels)


@torch.no_grad()
def _flatten_channels_last(linears: nn.Module, positions: int) -> None:
    """Lets a linear layer, or several in a list, take what ChannelsLastFlatten gives."""
    for linear in linears.modules():
        if isinstance(linear, nn.Linear):
            weight = linear.weight.unflatten(1, (-1, positions)).transpose(1, 2).flatten(1)
            linear.weight = nn.Parameter(weight.contiguous(), requires_grad=False)


def _optimize_box_head(head: nn.Module, pooler: Any) -> None:
    """FastRCNNConvFCHead and its subclasses, whose convolutions keep the RoI's size."""
    if not isinstance(head, FastRCNNConvFCHead) or type(head).forward is not FastRCNNConvFCHead.forward:
        return
    if isinstance(getattr(head, "flatten", None), nn.Flatten):
        head.flatten = ChannelsLastFlatten()
        _flatten_channels_last(head.fcs[0], math.prod(pooler.output_size))
    _fuse_activations(head)


def use_matrix_tiles_in_heads(model: nn.Module) -> None:
    """Lets the deconvolutions of mask heads multiply on the processor's matrix tiles, where it has them."""
    if not has_matrix_tiles():
        return
    for module in model.modules():
        if isinstance(module, SubpixelDeconvolution):
            weight = module.weight
            if weight.dtype == torch.float32 and weight.device.type == "cpu":
                module.split = split_weight(weight[:, :, None, None])


def _each(heads: nn.Module) -> list[nn.Module]:
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def optimize_heads(model: nn.Module) -> None:
    """Changes, in place, the heads of a model whose convolutions are FusedConv2d; unknown ones stay."""
    for heads in [module for module in model.modules() if isinstance(module, ROIHeads)]:
        if hasattr(heads, "box_head") and hasattr(heads, "box_pooler"):
            for head in _each(heads.box_head):
                _optimize_box_head(head, heads.box_pooler)
    module: Any
    for module in list(model.modules()):
        if isinstance(module, RoILinear):
            module.use_channels_last()
        elif type(module) is ConvFCHead:
            positions = module.fcs[0].in_features // module.conv_layers[-1].out_channels
            _flatten_channels_last(module.fcs[0], positions)
            specialize(module, _CoarseHead)
        elif isinstance(module, FCNMaskHead):
            _use_subpixels(module)
            _fuse_activations(module)
        elif type(module) in (OneHotKeypointHead, KRCNNConvDeconvUpsampleHead):
            _fuse_activations(module)
