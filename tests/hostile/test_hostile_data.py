"""Damaged and malicious files are used, skipped with a name, or told in one line: no crash, no hang.

A slice of the seeds runs by default; MRCNN_PLUGIN_MUTATIONS (`make drills`: 2000) is how many of each kind.
"""

from __future__ import annotations

import logging
import os

import pytest
from hostile.attempts import run
from hostile.kinds import KINDS

_MUTATIONS = int(os.environ.get("MRCNN_PLUGIN_MUTATIONS", "0"))
_FEW = {"images_in_training": 6, "images_in_prediction": 20, "coco_files": 30, "configs": 30}
# So many seeds of a kind are a test of their own, which may run beside others.
_AT_ONCE = 250


def slices() -> list[tuple[str, int, int]]:
    found = []
    for kind in KINDS:
        count = _MUTATIONS or _FEW.get(kind, 25)
        found += [(kind, first, min(first + _AT_ONCE, count)) for first in range(0, count, _AT_ONCE)]
    return found


@pytest.mark.parametrize(("kind", "first", "last"), slices())
def test_every_input_is_used_or_told(kind, first, last, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    outcomes = run(kind, range(first, last), tmp_path)
    counts = f"{outcomes.taken} used, {outcomes.told} told, {len(outcomes.failed)} failed"
    print(f"{kind} {first} to {last}: {counts}")
    assert not outcomes.failed, "\n".join(f"{kind} {seed}: {text}" for seed, text in outcomes.failed.items())
    assert outcomes.taken + outcomes.told == last - first
    # Some inputs were harmless and some were not: else this tests nothing.
    assert outcomes.taken, outcomes.messages
    assert outcomes.told > (last - first) // 20, outcomes.messages
    if kind == "images_in_training":
        assert "skipped " in caplog.text
