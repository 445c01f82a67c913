"""Which layers of a network lose accuracy in 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .quantization import Layer

#: Layers that are measured together at first, where their weights' names do not say what they belong to.
RUN = 8


@dataclass(frozen=True)
class Group:
    """Layers that are quantized or not together.

    Attributes:
        name: in words.
        layers: names of operators.
        loss: of AP, in percent, with these alone in 8 bits; None before it was measured.
    """

    name: str
    layers: tuple[str, ...]
    loss: float | None = None


def groups_of(layers: Sequence[Layer]) -> list[Group]:
    """The parts of the heads by their names, and all other layers in runs.

    Args:
        layers: in the order of the graph.
    """
    parts: dict[str, list[str]] = {}
    others: list[str] = []
    for layer in layers:
        path = layer.weight.split(".")
        if len(path) > 2 and path[1] in ("roi_heads", "proposal_generator"):
            parts.setdefault(".".join(path[1:3]), []).append(layer.name)
        else:
            # Of the backbone; weights into which norms were folded have lost their names.
            others.append(layer.name)
    runs = [_run(others, begin, min(begin + RUN, len(others))) for begin in range(0, len(others), RUN)]
    return [*runs, *(Group(name, tuple(names)) for name, names in parts.items())]


def harmless_groups(
    layers: Sequence[Layer], loss_of: Callable[[Group], float], allowed: float
) -> list[Group]:
    """Those groups that alone lose at most `allowed`, least loss first.

    A group that loses more is halved, down to single layers: a few of them often do all the harm, the first
    ones above all.

    Args:
        layers: in the order of the graph.
        loss_of: measures what is lost with a group alone in 8 bits.
    """
    found = []
    waiting = groups_of(layers)
    while waiting:
        group = waiting.pop(0)
        loss = loss_of(group)
        if loss <= allowed:
            found.append(Group(group.name, group.layers, loss))
        elif len(group.layers) > 1:
            waiting[:0] = _halves(group)
    return sorted(found, key=lambda group: group.loss or 0.0)


def _halves(group: Group) -> list[Group]:
    middle = len(group.layers) // 2
    return [_part(group, 0, middle), _part(group, middle, len(group.layers))]


def _run(names: Sequence[str], begin: int, end: int) -> Group:
    return Group(f"backbone {begin + 1} to {end}", tuple(names[begin:end]))


def _part(group: Group, begin: int, end: int) -> Group:
    which = f"{begin + 1} to {end}" if end - begin > 1 else f"{end}"
    return Group(f"{group.name}, of these {which}", group.layers[begin:end])
