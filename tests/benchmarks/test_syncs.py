"""How often the host waits for the device in a step of a narrow model, as benchmarks/syncs.py counts it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: the pretended device stays registered as long as the process lives.
PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import syncs
from mrcnn_plugin import model_zoo
config = model_zoo.get_config("Shapes/mask_rcnn_R_18_FPN.py").model
found = syncs.records(config, 2, (64, 96))
import json
print(json.dumps({{
    phase: {{name: [one.waits.total(), sorted(place for _, place in one.waits)] for name, one in by.items()}}
    for phase, by in found.items()
}}))
"""


def test_waits_of_a_step():
    program = PROGRAM.format(folder=str(ROOT / "benchmarks"))
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    training, inference = found["training"], found["inference"]
    # One each for the anchors, the proposals and the RoIs, and one for losses and metrics; what stands here
    # may fall, not rise.
    assert training["ours"][0] <= 4, training["ours"][1]
    assert inference["ours"][0] <= 5, inference["ours"][1]
    # The count sees Detectron2's, in the forward and in the backward pass.
    assert training["Detectron2"][0] > 50
    assert inference["Detectron2"][0] > 20
    assert any(place.startswith("backward of detectron2") for place in training["Detectron2"][1])
