"""Hostile input by seed: each seed is one damaged or malicious file, drawn anew and stored nowhere."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zlib
from typing import Any

import numpy as np
import yaml
from PIL import Image

#: What takes the place of a value: wrong types, numbers out of every range, texts that break paths.
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**63,
        10**30,
        10**400,
        1e308,
        -1e308,
        0.5,
        float("nan"),
        float("inf"),
        -0.0,
    ),
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


# JSON and YAML both: more brackets than a parser calls itself, a number of more digits than Python reads.
_ENDLESS = (b"[" * 100_000, b"9" * 5000, b'{"a":' * 20_000)


def json_text(tree: Any, draw: random.Random) -> bytes:
    """JSON of a mutated tree, one time in four with damaged bytes instead."""
    if draw.random() < 0.25:
        return damaged(json.dumps(tree).encode(), draw)
    return _with_endless(json.dumps(mutated(tree, draw)).encode(), draw)


def _with_endless(text: bytes, draw: random.Random) -> bytes:
    """Now and then with something endless in place of a 1."""
    at = text.find(b"1", draw.randrange(len(text) or 1))
    if at < 0 or draw.random() > 0.04:
        return text
    return text[:at] + draw.choice(_ENDLESS) + text[at + 1 :]


#: YAML that unfolds without end, or is built of something else than values.
_YAML = (
    "\n".join(
        ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)), "names: *a39"]
    ),
    *(
        "names: &a [*a, b]",
        "&a names: *a",
        "names: {? [1, 2] : cat}",
        "names: {.inf: cat}",
        "names: {.nan: cat}",
    ),
    *(
        "names: 2001-99-99",
        "names: {1: cat, 1: dog}",
        "<<: [1]",
        "names: !!binary x",
        "nc: 0x",
        "- a\n- b",
        "",
    ),
    *(
        "names: !!python/object/apply:os.system [ls]",
        "names: 1:1:1:1",
        "--- a\n--- b",
        "names: [cat\x07]",
        "%YAML 9",
    ),
)


def yaml_text(tree: Any, draw: random.Random) -> bytes:
    """YAML of a tree; one time in six damaged, one time in twelve another file altogether."""
    if draw.random() < 1 / 12:
        return draw.choice(_YAML).encode()
    text = _with_endless(yaml.dump(tree).encode("utf-8", "surrogatepass"), draw)
    return damaged(text, draw) if draw.random() < 1 / 6 else text


_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA", "ICO", "JPEG2000")


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these dimensions with these chunks, whatever they hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb(draw: random.Random) -> bytes:
    """A few bytes that are an image of a great many pixels, or of none, or with a text of many megabytes."""
    zeros = zlib.compress(bytes(20_000_000))
    side = draw.choice((0, 1, 64, 12_000, 60_000, 2**31 - 1))
    kind = draw.randrange(5)
    if kind == 0:
        return _png(side, side, (b"IDAT", zeros))
    if kind == 1:
        return _png(64, 64, (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000))), (b"IDAT", zeros))
    if kind == 2:
        return b"P6 %d %d 255\n" % (side, side) + bytes(100)
    if kind == 3:
        return b"BM" + struct.pack("<IIIIiiHHIIiiII", 70, 0, 54, 40, side, -side, 1, 24, 0, 16, 0, 0, 0, 0)
    return b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"," + bytes(20)


def picture(draw: random.Random, size: int = 64) -> bytes:
    """An image file of some mode and format, rotated, animated or damaged; now and then a bomb."""
    if draw.random() < 0.05:
        return bomb(draw)
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
