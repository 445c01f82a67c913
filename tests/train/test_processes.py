"""Several processes: under torchrun, and spawned by train_net.py itself, all on the CPU through gloo."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.tiny_runs import start, tiny_arguments

from mrcnn_plugin.train import processes

_SCRIPT = """
import random, sys, torch
from detectron2.utils import comm
from mrcnn_plugin.train import argument_parser, launch
from mrcnn_plugin.train.command_line import setup
from mrcnn_plugin.train.loop import train

def main(args):
    config = setup(args)
    initial = {}
    optimizer = config.build_optimizer
    def record(model):
        initial.update({k: v.clone() for k, v in model.state_dict().items()})
        return optimizer(model)
    config.build_optimizer = record
    trainer = train(config)
    state = {k.removeprefix("module."): v for k, v in trainer.model.state_dict().items()}
    parameters = {k: v for k, v in trainer.model.module.named_parameters()}
    result = {"seed": torch.initial_seed(), "iter": trainer.iter, "parameters": parameters, "own": initial}
    torch.save(result, f"{sys.argv[1]}/rank{comm.get_rank()}.pth")

launch(main, 1, args=(argument_parser().parse_intermixed_args(sys.argv[2:]),))
"""


def test_parameters_are_identical_on_two_processes_after_ten_steps(shapes, tmp_path):
    script = tmp_path / "config.py"
    script.write_text(_SCRIPT)
    process = start(
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "--standalone",
        str(script),
        str(tmp_path),
        *tiny_arguments(shapes, tmp_path / "run", "train.max_iter=10", "dataloader.train.num_workers=1"),
    )
    output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, output + errors
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in range(2))
    assert first["iter"] == second["iter"] == 10
    # The seeds, and with them the weights as each process initialised them, differ.
    assert first["seed"] != second["seed"]
    assert any(not torch.equal(first["own"][key], second["own"][key]) for key in first["own"])
    for key, value in first["parameters"].items():
        assert torch.equal(value, second["parameters"][key]), key
    moved = [key for key, value in first["parameters"].items() if not torch.equal(value, first["own"][key])]
    assert len(moved) > 10
    assert (tmp_path / "run" / "model_final.pth").exists()
    # Each process evaluated its share of the images; rank 0 gathered them.
    predicted = torch.load(tmp_path / "run" / "inference" / "instances_predictions.pth", weights_only=False)
    assert sorted(p["image_id"] for p in predicted) == [1, 2, 3, 4, 5, 6]
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    assert results.keys() == {"bbox", "segm"}


def test_error_of_a_spawned_process_is_one_line(monkeypatch, capsys):
    trace = """
-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "spawn.py", line 96, in _wrap
    fn(i, *args)
mrcnn_plugin.data.coco_summary.DatasetError: a.json: no such file; correct the path
"""

    def spawn(*args):
        raise torch.multiprocessing.ProcessRaisedException(trace, 1, 99)

    monkeypatch.setattr(processes, "launch", spawn)
    assert processes.run(None) == 2
    assert capsys.readouterr().err == "error: a.json: no such file; correct the path\n"
    trace = "-- Process 1 terminated with the following error:\nRuntimeError: a bug"
    with pytest.raises(torch.multiprocessing.ProcessRaisedException):
        processes.run(None)


@pytest.mark.slow
def test_spawned_processes_report_an_error_in_one_line(shapes, tmp_path):
    shapes = {**shapes, "train": "coco:/nowhere.json:/nowhere"}
    process = start("train_net.py", *tiny_arguments(shapes, tmp_path, "--num-gpus", "2"))
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert "/nowhere.json" in lines[0]
    assert "Traceback" not in errors
