"""Which norm and which activation follow a convolution, found by running a network without memory."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .convolution import activation_of, can_fuse, fuse
from .norms import fold, is_foldable

logger = logging.getLogger(__name__)


class _Uses(TorchDispatchMode):
    """How many operators read each tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[int, int] = defaultdict(int)
        # An id is that of another tensor once the first is gone.
        self._alive: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.count[id(value)] += 1
                self._alive.append(value)
        result = func(*args, **kwargs)
        self._alive += [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        return result


class _Calls:
    """The module that gives each tensor, and the one that takes it, of one run on the meta device."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.taken: dict[str, tuple[int, int]] = {}
        self._seen: set[str] = set()
        probe = copy.deepcopy(network).to("meta")
        for name, module in probe.named_modules():
            if hasattr(module, "inplace"):
                # Else an activation's result would be its input.
                module.inplace = False
            if type(module) is nn.Identity:
                continue
            if not list(module.children()) or is_foldable(module):
                module.register_forward_hook(self._record(name))
        self.uses = _Uses()
        with torch.no_grad(), self.uses:
            probe(example.to("meta"))

    def _record(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
            if name in self._seen:
                # Called twice, with inputs of different makers.
                self.taken.pop(name, None)
            elif len(inputs) == 1 and isinstance(output, Tensor):
                self.taken[name] = (id(inputs[0]), id(output))
            self._seen.add(name)

        return hook

    def followers(self, name: str) -> list[str]:
        """Modules that alone read the output of module `name`, in the order of the run."""
        if name not in self.taken:
            return []
        output = self.taken[name][1]
        if self.uses.count[output] != 1:
            return []
        return [other for other, (given, _) in self.taken.items() if given == output and other != name]


def fold_traced(network: nn.Module, example: Tensor) -> None:
    """Folds norms into the convolutions before them and lets these apply what follows, in place.

    A convolution qualifies where only the norm reads its result, and an activation where only it reads the
    norm's: networks whose modules are called by code, such as timm's, do not say so otherwise.

    Args:
        network: in evaluation; what cannot run on the meta device is left as it is.
        example: (1, C, H, W), an input.
    """
    if not any(is_foldable(module) for module in network.modules()):
        return
    try:
        calls = _Calls(network, example)
    except (RuntimeError, NotImplementedError, AssertionError, ValueError) as error:
        logger.info(f"Norms of {type(network).__name__} stay apart: {str(error).splitlines()[0]}")
        return
    modules = dict(network.named_modules())
    for name, conv in modules.items():
        if can_fold(conv):
            _fold_chain(modules, calls, name)


def can_fold(conv: nn.Module) -> bool:
    """Whether a convolution uses its weight as it is."""
    if type(conv).__module__.startswith("timm."):
        return type(conv).__name__ == "Conv2dSame"
    # Whose activation comes before the norm.
    return can_fuse(conv) and getattr(conv, "activation", None) is None and not hasattr(conv, "after")


def _fold_chain(modules: dict[str, nn.Module], calls: _Calls, name: str) -> None:
    conv: Any = modules[name]
    followers = calls.followers(name)
    if len(followers) != 1 or not is_foldable(modules[followers[0]]):
        return
    norm: Any = modules[followers[0]]
    fold(conv, norm)
    inside = getattr(norm, "act", None)
    if inside is not None:
        # timm's: a dropout, which evaluation leaves out, and an activation within the norm.
        _replace(modules, norm, nn.Identity() if can_fuse(conv) and fuse(conv, inside) else inside)
        return
    _replace(modules, norm, nn.Identity())
    after = calls.followers(followers[0])
    if len(after) == 1 and activation_of(modules[after[0]]) and fuse(conv, modules[after[0]]):
        _replace(modules, modules[after[0]], nn.Identity())


def _replace(modules: dict[str, nn.Module], old: nn.Module, new: nn.Module) -> None:
    """Puts `new` wherever `old` is a child."""
    for parent in modules.values():
        for key, child in parent.named_children():
            if child is old:
                setattr(parent, key, new)
