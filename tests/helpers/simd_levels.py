"""The instruction sets for which the CPU kernels can run on this machine."""

import functools
import os
from unittest import mock

from mrcnn_plugin.ops import library

ALL = ("baseline", "avx2", "avx512")


def _has(level: str) -> bool:
    with mock.patch.dict(os.environ, {"MRCNN_PLUGIN_SIMD": level}):
        try:
            return library.simd_level() == level
        except RuntimeError:
            return False


@functools.cache
def simd_levels() -> tuple[str, ...]:
    """Narrowest first; none where the native library was not built."""
    return tuple(filter(_has, ALL)) if library.STATUS["cpu"] is None else ()
