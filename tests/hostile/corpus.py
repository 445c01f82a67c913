"""Hostile input by seed: each seed is one damaged or malicious file, drawn anew and stored nowhere."""

from __future__ import annotations

import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

#: What takes the place of a value: wrong types, numbers out of every range, texts that break paths.
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, float("nan"), float("inf"), -0.0),
    *("", "a", "x" * 5000, "\0", "../../etc/passwd", "/dev/zero", "\u202e\U0001f600", "\ud800", "1", "nan"),
    *([], {}, [[]], [None], [1, 2], [1e9] * 8, [[0, 0, 1e9, 0, 0, 1e9]], {"size": [2, 2], "counts": "~~~~"}),
    *(
        {"size": [10**6, 10**6], "counts": [0, 10**12]},
        {"counts": [1]},
        {"size": [64, 64], "counts": [-1, 5]},
    ),
    *(
        {"size": [64, 64], "counts": ""},
        {"size": [64, 64], "counts": [0] * 50},
        {"size": None, "counts": "a"},
    ),
)


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The paths of every value in nested dicts and lists."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def mutated(tree: Any, draw: random.Random) -> Any:
    """A copy in which one to three values are replaced, removed, repeated or exchanged."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        # Deeper values are many: each depth is as likely.
        by_depth: dict[int, list[tuple]] = {}
        for place in places(tree)[1:]:
            by_depth.setdefault(len(place), []).append(place)
        if not by_depth:
            break
        *above, key = draw.choice(by_depth[draw.choice(sorted(by_depth))])
        node = tree
        for name in above:
            node = node[name]
        kind = draw.randrange(5)
        if kind == 0:
            del node[key]
        elif kind == 1 and isinstance(node, list):
            node.insert(draw.randrange(len(node) + 1), copy.deepcopy(node[key]))
        elif kind == 2:
            other = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node[key], node[other] = node[other], node[key]
        else:
            node[key] = copy.deepcopy(draw.choice(VALUES))
    return tree


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes that are cut short, overwritten, doubled or exchanged."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        if not changed:
            break
        at, length = draw.randrange(len(changed)), draw.choice((1, 2, 4, 16, 200))
        kind = draw.randrange(5)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at : at + length] = draw.randbytes(length)
        elif kind == 3:
            changed[at : at + length] = bytes([draw.choice((0, 255))]) * length
        else:
            changed[at:at] = changed[at : at + length]
    return bytes(changed)


def json_text(tree: Any, draw: random.Random) -> bytes:
    """JSON of a mutated tree, one time in four with damaged bytes instead."""
    if draw.random() < 0.25:
        return damaged(json.dumps(tree).encode(), draw)
    return json.dumps(mutated(tree, draw)).encode()


_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000")


def picture(draw: random.Random, size: int = 64) -> bytes:
    """An image file of some mode and format, rotated, animated or damaged."""
    noise = np.random.default_rng(draw.randrange(2**32))
    image = Image.fromarray(noise.integers(0, 256, (draw.choice((1, size)), size, 3), dtype=np.uint8))
    mode = draw.choice(_MODES)
    try:
        image = image.convert("L").convert(mode) if mode in ("I", "F", "I;16") else image.convert(mode)
    except ValueError:
        image = image.convert("L")
    options: dict[str, Any] = {}
    kind = draw.choice(_FORMATS)
    if draw.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = draw.choice((0, 1, 3, 5, 6, 8, 9, 65535))
        options["exif"] = exif.tobytes()
    if draw.random() < 0.2:
        options |= {"save_all": True, "append_images": [image.copy(), image.copy()]}
    file = io.BytesIO()
    try:
        image.save(file, kind, **options)
    except (OSError, ValueError, KeyError, TypeError):
        # Not every format takes every mode and option.
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
    data = file.getvalue()
    return damaged(data, draw) if draw.random() < 0.6 else data


def image_name(draw: random.Random) -> str:
    """A name that a file system takes: long, of any script, with any ending."""
    stem = draw.choice(
        ("a", "x" * 240, "ä" * 120, "\U0001f600", "a\nb", "a\x1b[31mb", " ", "-rf", "a'b\"c", "100%d")
    )
    return stem + draw.choice((".png", ".jpg", ".tif", ".webp", ".bmp"))


def checkpoint(path: Path, state: dict[str, torch.Tensor], draw: random.Random) -> None:
    """A file of torch.save with values of another kind, or with damaged bytes."""
    tensors = (
        torch.ones(1).expand(1 << 40),
        torch.full((3, 2), float("nan")),
        torch.zeros(0),
        torch.eye(3).to_sparse(),
        torch.ones(3, 2, dtype=torch.complex64),
        torch.ones(3, 2).bool(),
        torch.ones(2, 3).t(),
        torch.ones(3, 2).half(),
    )
    data: dict[Any, Any] = {"model": dict(state), "iteration": 3}
    for _ in range(draw.randint(0, 2)):
        target = data["model"] if isinstance(data.get("model"), dict) and draw.random() < 0.7 else data
        key = draw.choice([*target, "new", 3]) if target else "new"
        target[key] = draw.choice(tensors) if draw.random() < 0.6 else copy.deepcopy(draw.choice(VALUES))
    file = io.BytesIO()
    torch.save(data, file, _use_new_zipfile_serialization=draw.random() < 0.7)
    content = file.getvalue()
    path.write_bytes(damaged(content, draw) if draw.random() < 0.6 else content)
