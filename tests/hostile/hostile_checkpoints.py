"""Checkpoints by seed: of other tensors, of code, without end, damaged."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile.corpus import VALUES, damaged, json_text


class _Runs:
    """Pickled, it is a call of this function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def _pickles(canary: Path) -> tuple[Any, ...]:
    """Objects whose pickles would create the file `canary`, or unfold without end."""
    nested: Any = []
    for _ in range(200):
        nested = [nested]
    cycle: list[Any] = []
    cycle.append(cycle)
    return (
        *(_Runs(os.system, f"touch '{canary}'"), _Runs(open, str(canary), "w"), _Runs(os.mkdir, str(canary))),
        *(_Runs(eval, f"open({str(canary)!r}, 'w')"), _Runs(__import__, "os"), _Runs(bytes, 1 << 34)),
        *(_Runs(np.zeros, (1 << 20, 1 << 10)), _Runs(torch.zeros, 1 << 36), nested, cycle, {"model": cycle}),
        *(
            np.array([_Runs(os.mkdir, str(canary))], dtype=object),
            np.zeros(3, "M8[s]"),
            2**70,
            {1: 2},
            [1],
            None,
        ),
    )


def _zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", pickle.dumps({}))
        archive.writestr("m/data/0", bytes(50_000_000))
    return file.getvalue()


def _endless_opcodes(draw: random.Random) -> bytes:
    """A pickle that doubles a tuple over and over, or asks for a string of any length."""
    doubled = b"\x80\x04)" + b"\x94".join(b"h%c" % i * 2 + b"\x86" for i in range(60)) + b"."
    return draw.choice((doubled, b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60), b"(" * 100_000 + b"t." * 9))


def checkpoint(path: Path, state: dict[str, torch.Tensor], draw: random.Random, canary: Path) -> None:
    """A file of weights with values of another kind, of code, without end, or with damaged bytes.

    Args:
        canary: a file that is there once code of the file has run.
    """
    if path.suffix == ".safetensors" and draw.random() < 0.7:
        path.write_bytes(_safetensors(state, draw))
        return
    if draw.random() < 0.08:
        path.write_bytes(draw.choice((_zip_bomb(), _endless_opcodes(draw))))
        return
    tensors = (
        torch.ones(1).expand(1 << 40),
        torch.full((3, 2), float("nan")),
        torch.zeros(0),
        torch.eye(3).to_sparse(),
        torch.ones(3, 2, dtype=torch.complex64),
        torch.ones(3, 2).bool(),
        torch.ones(2, 3).t(),
        torch.ones(3, 2).half(),
        torch.ones(3, 2, device="meta"),
        torch.quantize_per_tensor(torch.ones(3, 2), 0.1, 0, torch.quint8),
    )
    data: Any = {"model": dict(state), "iteration": 3}
    for _ in range(draw.randint(0, 2)):
        target = data["model"] if isinstance(data.get("model"), dict) and draw.random() < 0.7 else data
        key = draw.choice([*target, "new", 3]) if target else "new"
        values = draw.choice((tensors, tensors, VALUES, _pickles(canary)))
        value = draw.choice(values)
        target[key] = copy.deepcopy(value) if values is VALUES else value
    data = draw.choice(_pickles(canary)) if draw.random() < 0.05 else data
    file = io.BytesIO()
    if path.suffix == ".pkl" and draw.random() < 0.5:
        pickle.dump(_as_arrays(data), file, protocol=draw.randrange(6))
    else:
        torch.save(data, file, _use_new_zipfile_serialization=draw.random() < 0.7)
    content = file.getvalue()
    path.write_bytes(damaged(content, draw) if draw.random() < 0.4 else content)


def _as_arrays(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _as_arrays(value) for key, value in tree.items()}
    plain = isinstance(tree, torch.Tensor) and tree.layout is torch.strided and tree.device.type == "cpu"
    return tree.numpy() if plain and not tree.is_quantized and tree.numel() < 1 << 20 else tree


def _safetensors(state: dict[str, torch.Tensor], draw: random.Random) -> bytes:
    """By its format: the length of a header of JSON, the header, the numbers."""
    data, header = b"", {}
    for name, value in state.items():
        content = value.numpy().tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": offsets}
        data += content
    text = json_text(header, draw)
    length = draw.choice((len(text), len(text), len(text), 0, 1 << 40, (1 << 64) - 1))
    return struct.pack("<Q", length) + text + data
