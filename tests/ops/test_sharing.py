"""The ops and their modules copied, pickled, in a forked process, and called by many threads at once."""

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.every_op import every_op, same

from mrcnn_plugin import ops
from mrcnn_plugin.modeling import ROIPooler

MODULES = [
    ops.ROIAlign((3, 5), 0.5, 0, aligned=False, mode="max"),
    ops.ROIPool(3, 0.5),
    ops.ROIWarp(3, 0.5, 2, mode="avg"),
    ROIPooler(7, (1 / 4, 1 / 8), 2, "ROIAlignV2"),
    ROIPooler(7, (1 / 4, 1 / 8), 2, "ROIPool"),
]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_copy_is_the_same_module(module, duplicate):
    assert repr(duplicate(module)) == repr(module)
    if not isinstance(module, ROIPooler):
        features, rois = torch.rand(1, 2, 16, 16), torch.tensor([[0.0, 2, 2, 20, 14]])
        assert torch.equal(duplicate(module)(features, rois), module(features, rois))


def test_eight_threads_at_once_get_what_one_gets():
    alone = [every_op(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for results in [pool.map(every_op, range(8)) for _ in range(3)]:
            assert all(map(same, results, alone))


def test_one_two_and_seven_threads_give_the_same_bits():
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            results.append(every_op(5))
    finally:
        torch.set_num_threads(before)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


FORK = """
import os, sys
sys.path.insert(0, {tests!r})
import torch
from helpers.every_op import every_op, same

torch.set_num_threads(2)
expected = every_op(3)
child = os.fork()
if child == 0:
    # As the workers of a DataLoader do; PyTorch's own ops hang in a forked child otherwise, too.
    torch.set_num_threads(1)
    os._exit(0 if same(every_op(3), expected) else 5)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or not same(every_op(3), expected))
"""


def test_a_process_forked_after_use_computes_the_same(request):
    code = FORK.format(tests=str(request.config.rootpath / "tests"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
