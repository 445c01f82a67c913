"""A plugin of pytest's for run.py: leaves out tests that do not run the CPU kernels.

Those of `cuda_host` run the CUDA sources, built without sanitizers, on coroutines that ThreadSanitizer cannot
follow, and have checks of their own; those of the fallbacks run PyTorch.
"""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left_out = [], []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        on_cuda_host = "backend" in getattr(item, "fixturenames", ())
        (left_out if on_cuda_host or parameters.get("kernels") == "fallback" else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)
