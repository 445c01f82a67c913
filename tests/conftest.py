import os

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # Before torch is imported: workers and the programs that they start share the cores, and threads that
    # wait for a core spin in vain.
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

# Before any test imports Detectron2: mrcnn_plugin applies what it needs on a current stack.
import mrcnn_plugin  # noqa: F401

# isort: split

import hypothesis
import pytest
import torch

# A busy machine is slow, which is no failure; CI draws the same examples each time.
hypothesis.settings.register_profile("project", deadline=None, derandomize=bool(os.getenv("CI")))
hypothesis.settings.load_profile("project")

pytest_plugins = ["helpers.run_fixtures", "helpers.cuda_backends"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def event_storage():
    from detectron2.utils.events import EventStorage

    with EventStorage() as storage:
        yield storage
