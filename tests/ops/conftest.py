import pytest

from mrcnn_plugin.ops import library


@pytest.fixture(params=["native", "fallback"], scope="module")
def kernels(request):
    """Runs a test twice: on the native kernels, and as if csrc had not been built."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fallback":
            patch.setattr(library, "native", lambda device_type: False)
        yield request.param
