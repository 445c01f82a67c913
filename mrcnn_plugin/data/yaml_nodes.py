"""YAML as nodes, before anything is made of it, and how many values its aliases make of it."""

from __future__ import annotations

from typing import IO

import yaml

#: Values that a file may stand for; a run folder's config has some hundreds.
MOST_NODES = 200_000


def compose(text: str | IO[str]) -> yaml.Node | None:
    """The nodes of a document, of which nothing is constructed; None where it is empty.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is not YAML.
        ValueError: its aliases stand for more than MOST_NODES values.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is not None and _size(node, {}) > MOST_NODES:
        raise ValueError(
            f"its aliases stand for more than {MOST_NODES:,} values; write out those that are needed"
        )
    return node


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes below `node`, an alias counted as what it stands for; at most MOST_NODES + 1."""
    if id(node) in known:
        # Of a node that holds itself there is no end.
        return known[id(node)]
    if isinstance(node, yaml.ScalarNode):
        return 1
    known[id(node)] = MOST_NODES + 1
    pairs = (
        node.value
        if isinstance(node, yaml.SequenceNode)
        else [child for pair in node.value for child in pair]
    )
    known[id(node)] = min(1 + sum(_size(child, known) for child in pairs), MOST_NODES + 1)
    return known[id(node)]
