"""Any network of timm that gives feature maps, as a backbone of Detectron2.

timm (PyTorch Image Models, Wightman) is an optional extra: nothing of it is imported before it is used.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from mrcnn_plugin.errors import ConfigError

logger = logging.getLogger(__name__)


def import_timm() -> ModuleType:
    """timm.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"a timm backbone needs timm, which cannot be imported ({error}): pip install 'timm>=1.0.31'"
        ) from error
    return timm


def timm_normalization(name: str) -> dict[str, Any]:
    """What the weights of timm's model `name` expect of their input, as keys of Detectron2's R-CNN.

    Args:
        name: as timm has it, with or without a tag: "resnet50d", "resnet50d.ra2_in1k".

    Returns:
        pixel_mean, pixel_std: three numbers each on the scale 0..255, in timm's order of colours, which is
        input_format: "RGB".

    Raises:
        ConfigError: timm is missing, or has no weights of that name.
    """
    timm = import_timm()
    _check_name(timm, name)
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"timm has no weights {name!r}: {error}") from error
    if cfg is None:
        raise ConfigError(f"timm has no weights of {name!r}: set mean and deviation yourself")
    return {
        "pixel_mean": [round(255 * value, 4) for value in cfg.mean],
        "pixel_std": [round(255 * value, 4) for value in cfg.std],
        "input_format": "RGB",
    }


class TimmBackbone(Backbone):
    """A `features_only` model of timm.

    Its maps are named as those of Detectron2's ResNet: "resN" has a stride of 2**N pixels, and is the deepest
    map of that stride. With `output_stride` 8 or 16 the later ones keep their names at the smaller stride, as
    the dilated res5 of the DC5 models does. So "res2" to "res5" stand below an FPN, "res4" alone serves as
    C4, and "res5" with `output_stride=16` as DC5, for any model that has them.

    Images may have any size: they are padded with zeros on the right and at the bottom, and the maps cut to
    ceil(side / stride).

    Args:
        name: a model of timm ("tf_efficientnet_lite0"); a tag ("resnet50d.ra2_in1k") changes nothing here.
        out_features: the maps to give out. What comes after the deepest of them is not built.
        norm: "" leaves timm's norms as they are, trained; "FrozenBN" fixes statistics, weight and bias of
            every BatchNorm; "SyncBN" shares statistics among processes (CUDA). Epsilons are kept, and the
            activations that timm has inside its norms.
        freeze_at: 0 trains all; N fixes every parameter that resN is computed from, and keeps that part in
            evaluation mode. 1 is the stem, for models that have a map of stride 2.
        drop_path_rate: of stochastic depth, for models that take it; 0 leaves timm's default.
        output_stride: 32, or 8 or 16 where the model can dilate its later stages.
        in_channels: channels of the image.
        pad_multiple: sides that the model takes are multiples of it; 0 is the largest stride. Models that
            divide their map into windows or grids of a fixed size may need more (MaxViT: 32 * 7).
        model_args: further arguments of `timm.create_model`.

    Raises:
        ConfigError: timm is missing; it has no such model; the model has no such maps, takes no such
            argument, or has no BatchNorm that `norm` could change. A model that keeps one scale (ViT) has
            one map.
    """

    def __init__(
        self,
        name: str,
        *,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
        norm: str = "",
        freeze_at: int = 0,
        drop_path_rate: float = 0.0,
        output_stride: int = 32,
        in_channels: int = 3,
        pad_multiple: int = 0,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        timm = import_timm()
        _check_name(timm, name)
        self.name = name
        args: dict[str, Any] = {"in_chans": in_channels, **(model_args or {})}
        if drop_path_rate:
            args["drop_path_rate"] = drop_path_rate
        levels, args = _levels(name, args, output_stride)
        _check_features(name, out_features, levels, freeze_at)

        # In the order of the network, as timm gives the maps out.
        self._out_features = sorted(out_features, key=levels.__getitem__)
        indices = [levels[feature] for feature in self._out_features]
        self.net: Any = _create(name, {**args, "out_indices": tuple(indices)})
        _set_norm(self.net, name, norm)
        info = self.net.feature_info
        self._out_feature_channels = dict(zip(self._out_features, info.channels()))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction()))
        self._pad_multiple = pad_multiple or max(info.reduction())
        # Without memory: how the maps lie, and what they are computed from.
        with torch.device("meta"):
            probe = _create(name, {**args, "out_indices": tuple(indices)}).eval()
            _set_norm(probe, name, norm)
        self._channels_last = _check_maps(name, probe, self.output_shape(), self._pad_multiple, in_channels)
        self._frozen: list[nn.Module] = []
        if freeze_at:
            self._freeze(_parameters_below(name, args, levels[f"res{freeze_at}"]))

    def _freeze(self, names: set[str]) -> None:
        """Fixes the parameters whose timm names are in `names`, and the modules that have no other."""
        for own, parameter in self.net.named_parameters():
            if _timm_key(own) in names:
                parameter.requires_grad_(False)
        self._frozen = list(_wholly_frozen(self.net))

    def train(self, mode: bool = True) -> TimmBackbone:
        """As of any module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (N, in_channels, H, W) to maps (N, C, ceil(H / stride), ceil(W / stride))."""
        height, width = x.shape[-2:]
        right, bottom = -width % self._pad_multiple, -height % self._pad_multiple
        padded = bool(right or bottom)
        if padded:
            x = F.pad(x, (0, right, 0, bottom))
        outputs = {}
        for feature, one in zip(self._out_features, self.net(x)):
            if self._channels_last:
                one = one.movedim(-1, 1)
            # Not where nothing was added: to torch.export, what is cut off has a size of its own.
            if padded:
                stride = self._out_feature_strides[feature]
                one = one[..., : math.ceil(height / stride), : math.ceil(width / stride)]
            outputs[feature] = one
        return outputs

    def from_timm_names(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names of timm's whole model -> the state dict of this backbone.

        Args:
            state_dict: as `timm.create_model(name).state_dict()`; what the backbone does not have, such as
                the classifier, is left out.

        Raises:
            ValueError: weights of the backbone are missing or have another shape.
        """
        given = {_key(name): name for name in state_dict}
        state, missing = {}, []
        for own, value in self.state_dict().items():
            name = given.get(_timm_key(own.removeprefix("net.")))
            if name is not None and tuple(state_dict[name].shape) == tuple(value.shape):
                state[own] = state_dict[name]
            # Older files have no counts; torch's own default is 0 there.
            elif not own.endswith("num_batches_tracked"):
                missing.append((own, value.shape, name and tuple(state_dict[name].shape)))
        if missing:
            own, wanted, found = missing[0]
            what = f"has shape {found}, expected {tuple(wanted)}" if found else "is not among them"
            more = f", nor do {len(missing) - 1} more fit" if len(missing) > 1 else ""
            raise ValueError(
                f"not the weights of timm's {self.name!r}: {own.removeprefix('net.')} {what}{more}"
            )
        return state


def _check_name(timm: ModuleType, name: str) -> None:
    if timm.is_model(name):
        return
    close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
    hint = (
        f"; the nearest are {', '.join(map(repr, close))}" if close else "; timm.list_models() has all names"
    )
    raise ConfigError(f"timm has no model {name!r}{hint}")


def _create(name: str, args: Mapping[str, Any]) -> Any:
    """timm's features_only model; its refusals as ConfigError."""
    try:
        return import_timm().create_model(name, features_only=True, **args)
    except (
        TypeError,
        RuntimeError,
        AssertionError,
        NotImplementedError,
        ValueError,
        AttributeError,
    ) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise ConfigError(f"timm cannot build {name!r} as a backbone with {given}: {lines[0]}") from error


#: Arguments by which models of fixed input size take any; the first that a model knows is used.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})


def _levels(name: str, args: dict[str, Any], output_stride: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Which of the model's maps is "resN"; and `args` with what makes it take any size and that stride."""
    for any_size in _ANY_SIZE:
        try:
            with torch.device("meta"):
                net = _create(name, {**any_size, **args})
        except ConfigError:
            if not any_size:
                raise
            continue
        break
    args = {**any_size, **args}
    strides = [info["reduction"] for info in net.feature_info.info]
    powers = [(index, stride.bit_length() - 1) for index, stride in enumerate(strides) if _is_power(stride)]
    levels = {f"res{power}": index for index, power in powers}
    return levels, args if output_stride == 32 else {**args, "output_stride": output_stride}


def _is_power(stride: int) -> bool:
    return stride > 1 and stride & (stride - 1) == 0


def _check_features(name: str, out_features: Sequence[str], levels: dict[str, int], freeze_at: int) -> None:
    unknown = [feature for feature in out_features if feature not in levels]
    if unknown or not out_features:
        one = "; a model of one scale carries no FPN, take a hierarchical one" if len(levels) < 2 else ""
        raise ConfigError(
            f"out_features of timm's {name!r} must be some of {list(levels)}, got {list(out_features)}{one}"
        )
    if freeze_at and f"res{freeze_at}" not in levels:
        known = sorted(int(level.removeprefix("res")) for level in levels)
        raise ConfigError(f"freeze_at of timm's {name!r} must be 0 or one of {known}, got {freeze_at}")


def _set_norm(net: nn.Module, name: str, norm: str) -> None:
    if norm == "":
        return
    from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

    # Both of timm's conversions know its BatchNorm with an activation inside, which Detectron2's would lose.
    convert = {"FrozenBN": freeze_batch_norm_2d, "SyncBN": convert_sync_batchnorm}.get(norm)
    if convert is None:
        raise ConfigError(f"norm of a timm backbone must be '', 'FrozenBN' or 'SyncBN', got {norm!r}")
    if not any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
        raise ConfigError(f"norm={norm!r}: timm's {name!r} has no BatchNorm; leave norm ''")
    convert(net)


def _check_maps(
    name: str, probe: Any, shapes: Mapping[str, ShapeSpec], multiple: int, in_channels: int
) -> bool:
    """Whether the maps are (N, H, W, C); ConfigError unless each has its stride at any multiple."""
    problem = _misfit(probe, shapes, multiple, in_channels, channels_last=False)
    if problem is None:
        return False
    if _misfit(probe, shapes, multiple, in_channels, channels_last=True) is None:
        return True
    # Windows in the deepest map, or grids of the model's own size.
    own_size = probe.pretrained_cfg["input_size"][-1]
    fitting = (m for m in (2 * multiple, own_size) if m != multiple)
    found = next((m for m in fitting if _fits_either_way(probe, shapes, m, in_channels)), None)
    hint = f"with pad_multiple={found} it does" if found else "it cannot serve as a backbone"
    raise ConfigError(f"timm's {name!r} does not take images of any size ({problem}); {hint}")


def _fits_either_way(
    probe: nn.Module, shapes: Mapping[str, ShapeSpec], multiple: int, in_channels: int
) -> bool:
    layouts = (False, True)
    return any(_misfit(probe, shapes, multiple, in_channels, channels_last=c) is None for c in layouts)


def _misfit(
    probe: Any, shapes: Mapping[str, ShapeSpec], multiple: int, in_channels: int, *, channels_last: bool
) -> str | None:
    """What is wrong with the maps of an image of 8 x 9 times `multiple` pixels, if anything."""
    height, width = 8 * multiple, 9 * multiple
    try:
        with torch.device("meta"), torch.no_grad():
            maps = probe(torch.zeros(1, in_channels, height, width))
    except (AssertionError, RuntimeError, ValueError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        return f"{height} x {width}: {why[0]}"
    for (feature, shape), one in zip(shapes.items(), maps, strict=True):
        got = tuple(one.movedim(-1, 1).shape if channels_last else one.shape)
        expected = (1, shape.channels, height // shape.stride, width // shape.stride)
        if got != expected:
            return f"{height} x {width}: {feature} has shape {got}, expected {expected}"
    return None


def _key(timm_name: str) -> str:
    # timm's wrappers of features join the names of nested modules: "stages.0.x" is "stages_0.x" in them.
    return timm_name.replace(".", "_")


def _timm_key(own: str) -> str:
    # Others hold the whole model, as "model" or "body".
    return _key(own.removeprefix("model.").removeprefix("body."))


@torch.enable_grad()
def _parameters_below(name: str, args: Mapping[str, Any], index: int) -> set[str]:
    """Keys of the parameters that map `index` is computed from, as differentiation finds them."""
    with torch.device("meta"):
        net = _create(name, {**args, "out_indices": (index,)}).eval()
        images = torch.zeros(1, args["in_chans"], *net.pretrained_cfg["input_size"][-2:])
        (one,) = net(images)
    parameters = {own: parameter for own, parameter in net.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(one.sum(), list(parameters.values()), allow_unused=True)
    return {_timm_key(own) for own, gradient in zip(parameters, gradients) if gradient is not None}


def _wholly_frozen(module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules that have parameters, none of which is trained."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if trained and not any(trained):
        yield module
    else:
        for child in module.children():
            yield from _wholly_frozen(child)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """`TimmBackbone` by MODEL.TIMM (`mrcnn_plugin.add_config`) and MODEL.BACKBONE.FREEZE_AT."""
    if "TIMM" not in cfg.MODEL:
        raise ConfigError("the config has no MODEL.TIMM: call mrcnn_plugin.add_config(cfg) before reading it")
    keys = cfg.MODEL.TIMM
    if not keys.NAME:
        raise ConfigError("MODEL.TIMM.NAME is empty: give a model of timm, such as 'resnet50d'")
    _compare_normalization(cfg)
    return TimmBackbone(
        keys.NAME,
        out_features=keys.OUT_FEATURES,
        norm=keys.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        drop_path_rate=keys.DROP_PATH_RATE,
        output_stride=keys.OUTPUT_STRIDE,
        in_channels=input_shape.channels,
        pad_multiple=keys.PAD_MULTIPLE,
        model_args=dict(keys.MODEL_ARGS),
    )


def _compare_normalization(cfg: CfgNode) -> None:
    wanted = timm_normalization(cfg.MODEL.TIMM.NAME)
    given = {
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
    }
    keys = {"pixel_mean": "MODEL.PIXEL_MEAN", "pixel_std": "MODEL.PIXEL_STD", "input_format": "INPUT.FORMAT"}
    other = [f"{keys[key]} {value}" for key, value in wanted.items() if given[key] != value]
    if other:
        logger.warning(f"timm's weights of {cfg.MODEL.TIMM.NAME!r} expect {', '.join(other)}")


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN (MODEL.FPN) on `TimmBackbone`, with p6 from p5 by max pooling."""
    return FPN(
        bottom_up=build_timm_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
