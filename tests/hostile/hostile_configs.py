"""Configs of run folders by seed: those that ask for other code, refer to themselves, or have no end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from hostile.corpus import mutated, places

_TARGETS = (
    *(
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.Popen",
        "torch.load",
        "builtins.open",
        "os.mkdir",
    ),
    *(
        "pickle.loads",
        "torch.nn.modules.module.Module.load_state_dict",
        "mrcnn_plugin.train.train",
        "os",
        ".",
        "",
    ),
    *(
        "detectron2.utils.file_io.PathManager.rm",
        "detectron2.layers.os.system",
        "torch.nn.modules.torch.load",
    ),
    *(
        "mrcnn_plugin.modeling.torch.hub.load",
        "detectron2.modeling.backbone.resnet.np.load",
        "a" * 3000,
        "a..b",
    ),
    *("torch.nn.Module.__init__", "torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear"),
)
_TEXTS = (
    *(
        "${oc.env:HOME}",
        "${oc.create:{_target_: os.system}}",
        "${..}",
        "${a.b}",
        "${",
        "$\\{a}",
        "???",
        "${model}",
    ),
    *(
        "${.}",
        "${model.backbone}",
        "timm://resnet18",
        "file:///etc/passwd",
        "http://localhost:1/x",
        "~/x",
        "1e999",
    ),
)


def mutated_config(tree: Any, draw: random.Random, canary: Path) -> Any:
    """A config that asks for other code, refers to itself or has gigantic numbers, among other things."""
    tree = mutated(tree, draw)
    for _ in range(draw.randint(0, 2)):
        found = [place for place in places(tree)[1:] if not isinstance(_at(tree, place), dict | list)]
        if not found:
            break
        targets = [place for place in found if place[-1] == "_target_"]
        *above, key = draw.choice(targets if targets and draw.random() < 0.5 else found)
        node = _at(tree, tuple(above))
        if key == "_target_":
            node[key] = draw.choice(_TARGETS)
            node.update({"command": f"touch '{canary}'", "path": str(canary)} if draw.random() < 0.5 else {})
        else:
            node[key] = draw.choice(
                (draw.choice(_TEXTS), 10 ** draw.randrange(3, 30), -(10**9), [[1e30] * 3])
            )
    if "MODEL" in tree and draw.random() < 0.3:
        tree["_BASE_"] = draw.choice(_BASES)
    return tree


_BASES = (
    "config.yaml",
    "other.yaml",
    ["other.yaml", "config.yaml"],
    "/dev/zero",
    "",
    "..",
    "\0",
    3,
    None,
    "x" * 999,
)


def other_bases(folder: Path, draw: random.Random) -> None:
    """The file that a config may name as its base, mostly one that leads back to it."""
    base = draw.choice(
        ("_BASE_: config.yaml", "_BASE_: ./other.yaml", "_BASE_: [a.yaml]", "MODEL: {DEVICE: cpu}")
    )
    (folder / "other.yaml").write_text(base)


def _at(tree: Any, place: tuple) -> Any:
    for key in place:
        tree = tree[key]
    return tree
