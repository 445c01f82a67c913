"""Reading weights from files without running code from them.

A pickle is a program: loading one calls whatever it names. safetensors files and PyTorch's `weights_only`
loading cannot do that. Detectron2's zoo publishes pickles of NumPy arrays; those are read by an unpickler
that knows arrays, dicts and strings, and refuses every other name.
"""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from .stand_ins import read_weights_beside_bookkeeping

logger = logging.getLogger(__name__)


class DamagedCheckpointError(ValueError):
    """A file that is cut short or garbled, or that is no checkpoint at all."""


class UnsafeCheckpointError(pickle.UnpicklingError):
    """A checkpoint can only be read by running code that it names."""

    def __init__(self, path: str | Path, wants: str) -> None:
        super().__init__(
            f"{path} was not read: it is a pickle that {wants}. If you trust its source, rewrite it: "
            f"python -m mrcnn_plugin.checkpoint.convert --allow-pickle {path} OUT.safetensors "
            "(from Python: allow_pickle=True)."
        )


def read_checkpoint(path: str | Path, *, allow_pickle: bool = False) -> Any:
    """Contents of a local checkpoint file.

    Args:
        path: .safetensors (a flat dict of tensors); .pkl (a pickle of NumPy arrays, as in Detectron2's and
            Detectron's zoos, from Python 2 or 3); anything else is a file of `torch.save`.
        allow_pickle: run the code that the file names, where it cannot be read without. Only for files
            whose source you trust as you would trust a program.

    Returns:
        What was saved: tensors on the CPU, arrays as writable np.ndarray. Of a checkpoint of MMEngine
        (MMDetection 3), what holds none of MMEngine's own objects: the weights, but not its `message_hub`.

    Raises:
        UnsafeCheckpointError: the file needs code of its own and `allow_pickle` is False.
        FileNotFoundError, ImportError: no such file; safetensors is not installed.
        DamagedCheckpointError: the file is cut short, garbled, or unpacks to more than it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    plain = path.suffix == ".pkl" and not zipfile.is_zipfile(path)
    try:
        return _read_arrays(path) if plain else _read_torch(path)
    except UnsafeCheckpointError as error:
        if not allow_pickle:
            raise
        logger.warning(f"Running code from {path} as allow_pickle says: {error}")
    if not plain:
        return torch.load(path, map_location="cpu", weights_only=False)
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(f"{path} needs the safetensors package: pip install safetensors") from error
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise DamagedCheckpointError(f"{path} is not a whole safetensors file: {error}") from error


# What unpickling raises on bytes that are no pickle of arrays or tensors.
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
)


def _read_torch(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        weights = read_weights_beside_bookkeeping(path)
        if weights is not None:
            return weights
        # torch explains itself over many lines; the one that names the global is what helps.
        lines = [line.strip() for line in str(error).splitlines()]
        detail = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0])
        raise UnsafeCheckpointError(path, f"`weights_only` loading refuses ({detail.rstrip('.')})") from error
    except _DAMAGE as error:
        raise DamagedCheckpointError(f"{path} is not a whole file of torch.save: {error}") from error


def _check_archive(path: Path) -> None:
    """Raises ValueError where a zip archive unpacks to more than it holds: torch.save compresses nothing."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    unpacked, held = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > held or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"its {held:,} bytes unpack to {unpacked:,}, while torch.save compresses nothing")


def is_intact(path: str | Path) -> bool:
    """Whether a file of `torch.save` holds the bytes that were written, by the checksums that it keeps."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, *_DAMAGE):
        return False


def check_tensors(state_dict: dict[str, Any], path: str | Path) -> None:
    """Raises DamagedCheckpointError where a tensor is not a plain one with as many numbers as its shape says.

    A stride of 0 makes a few bytes a tensor of any size, which the first operation on it would write out.
    """
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            continue
        plain = value.layout is torch.strided and value.device.type == "cpu"
        plain = plain and not (value.is_quantized or value.is_complex())
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise DamagedCheckpointError(
                f"{path}: {name!r}, of shape {tuple(value.shape)}, is not a tensor that is held in full"
            )


def _read_arrays(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            # latin1 keeps the bytes of Python 2 strings, in which such files hold their arrays.
            data = _ArrayUnpickler(file, encoding="latin1").load()
            torch_file = bool(file.read(1))
        data = _finished(data)
    except _RefusedGlobalError as error:
        raise UnsafeCheckpointError(path, f"asks for {error}") from error
    except _DAMAGE as error:
        raise DamagedCheckpointError(f"{path} is not a whole pickle of arrays: {error}") from error
    # torch.save before version 1.6 wrote several pickles, one after another.
    return _read_torch(path) if torch_file else data


class _RefusedGlobalError(Exception):
    """The name that a pickle asks for."""


class _Dtype:
    """What a pickle says about a dtype; plain numbers only, and no memory layout of its own."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order: Literal["<", ">", "="] = "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="

    def build(self) -> np.dtype:
        dtype = np.dtype(str(self.code))
        if dtype.kind not in "biuf" or dtype.subdtype or dtype.names:
            raise ValueError(f"arrays of dtype {self.code!r} are not weights")
        return dtype.newbyteorder(self.order)


class _Array:
    """What a pickle says about an array: its own code builds it, so that sizes are checked."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple | None = None

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def build(self) -> np.ndarray:
        if self.state is None:
            raise ValueError("an array without contents")
        _, shape, dtype, fortran, data = self.state
        return _array(data, dtype, shape, "F" if fortran else "C")


class _Buffer(_Array):
    """An array in the form of pickle protocol 5: (data, dtype, shape, order)."""

    def __init__(self, data: bytes, dtype: _Dtype, shape: tuple, order: Literal["C", "F"]) -> None:
        self.state = (1, shape, dtype, order == "F", data)


class _Scalar:
    """A NumPy scalar: (dtype, data)."""

    def __init__(self, dtype: _Dtype, data: bytes) -> None:
        self.dtype, self.data = dtype, data

    def build(self) -> Any:
        return _array(self.data, self.dtype, (), "C")[()]


def _array(data: bytes | str, dtype: _Dtype, shape: tuple, order: Literal["C", "F"]) -> np.ndarray:
    data = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)):
        raise ValueError("an array that does not hold plain numbers")
    array = np.frombuffer(data, dtype.build()).reshape(tuple(int(n) for n in shape), order=order)
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=True)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    # Protocols before 3 have no bytes: Python 3 writes them as text to be encoded.
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_ADMITTED: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    # Protocols before 3 write b"" as a call of bytes.
    ("__builtin__", "bytes"): _no_bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    **{
        (f"numpy.{core}.{module}", name): kind
        for core in ("core", "_core")
        for module, name, kind in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", _Scalar),
            ("numeric", "_frombuffer", _Buffer),
        )
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in _ADMITTED:
            raise _RefusedGlobalError(f"{module}.{name}")
        return _ADMITTED[module, name]


def _finished(value: Any, known: dict[int, Any] | None = None) -> Any:
    """`value` with the arrays that its stand-ins describe; what occurs many times is made once."""
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    made = value
    if isinstance(value, (_Array, _Scalar, _Dtype)):
        made = value.build()
    elif isinstance(value, dict):
        made = type(value)((_finished(k, known), _finished(v, known)) for k, v in value.items())
    elif isinstance(value, (list, tuple)):
        made = type(value)(_finished(v, known) for v in value)
    known[id(value)] = made
    return made
