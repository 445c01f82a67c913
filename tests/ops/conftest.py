import pytest

from mrcnn_plugin.ops import library


@pytest.fixture(params=["native", "fallback"])
def kernels(request, monkeypatch):
    """Runs a test twice: on the native kernels, and as if csrc had not been built."""
    if request.param == "fallback":
        monkeypatch.setattr(library, "native", lambda device_type: False)
    return request.param
