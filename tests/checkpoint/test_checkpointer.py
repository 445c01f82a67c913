"""DetectionCheckpointer reads what Detectron2's reads, and only that."""

import logging
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer, UnsafeCheckpointError


class Weights(nn.Module):
    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        nn.init.constant_(self.layer.weight, value)

    def forward(self, x):
        return self.layer(x)


def test_saved_checkpoints_resume_with_all_their_state(tmp_path):
    model = Weights(2.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    DetectionCheckpointer(model, str(tmp_path), optimizer=optimizer, scheduler=scheduler).save(
        "model_0000002", iteration=2
    )
    other = Weights()
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.1)
    other_scheduler = torch.optim.lr_scheduler.OneCycleLR(other_optimizer, 0.1, total_steps=10)
    checkpointer = DetectionCheckpointer(
        other, str(tmp_path), optimizer=other_optimizer, scheduler=other_scheduler
    )
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 2
    assert torch.equal(other.layer.weight, model.layer.weight)
    assert other_scheduler.state_dict() == scheduler.state_dict()
    assert torch.equal(
        other_optimizer.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"]
    )


def test_zoo_pickle_loads_without_a_flag(tmp_path):
    state = {k: v.numpy() for k, v in Weights(3.0).state_dict().items()}
    path = tmp_path / "model_final_abc.pkl"
    path.write_bytes(pickle.dumps({"model": state, "__author__": "Detectron2 Model Zoo"}, protocol=2))
    model = Weights()
    DetectionCheckpointer(model).load(str(path))
    assert float(model.layer.weight.detach().min()) == 3.0


def test_imagenet_backbone_of_caffe2_loads_by_matching(tmp_path):
    resnet = ResNet(BasicStem(), ResNet.make_default_stages(50), out_features=["res5"])
    blobs = {"conv1_w": np.full((64, 3, 7, 7), 0.5, "f4"), "conv1_w_momentum": np.ones(1, "f4")}
    blobs["res2_0_branch2a_w"] = np.full((64, 64, 1, 1), 0.25, "f4")
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(blobs, protocol=2))
    DetectionCheckpointer(resnet).load(str(path))
    assert float(resnet.stem.conv1.weight.detach().min()) == 0.5
    assert float(resnet.res2[0].conv1.weight.detach().max()) == 0.25


def test_torchvision_backbone_in_d2_form_and_pycls_load_by_matching(tmp_path):
    resnet = ResNet(BasicStem(), ResNet.make_default_stages(50), out_features=["res5"])
    weight = np.full((64, 3, 7, 7), 0.75, "f4")
    path = tmp_path / "R-50.pkl"
    contents = {
        "model": {"stem.conv1.weight": weight},
        "__author__": "torchvision",
        "matching_heuristics": True,
    }
    path.write_bytes(pickle.dumps(contents))
    DetectionCheckpointer(resnet).load(str(path))
    assert float(resnet.stem.conv1.weight.detach().min()) == 0.75
    pycls = tmp_path / "R-50.pyth"
    torch.save({"model_state": {"stem.conv1.weight": torch.tensor(weight) * 2}}, pycls)
    DetectionCheckpointer(resnet).load(str(pycls))
    assert float(resnet.stem.conv1.weight.detach().min()) == 1.5


def test_safetensors_and_bare_state_dicts_load(tmp_path):
    from safetensors.torch import save_file

    save_file(Weights(4.0).state_dict(), tmp_path / "m.safetensors")
    torch.save(Weights(5.0).state_dict(), tmp_path / "m.pth")
    model = Weights()
    DetectionCheckpointer(model).load(str(tmp_path / "m.safetensors"))
    assert float(model.layer.weight.detach().max()) == 4.0
    DetectionCheckpointer(model).load(str(tmp_path / "m.pth"))
    assert float(model.layer.weight.detach().max()) == 5.0


class Evil:
    def __reduce__(self):
        return os.system, ("exit 7",)


def test_a_file_that_needs_code_wants_the_flag(tmp_path, caplog):
    state = Weights(6.0).state_dict()
    torch.save({"model": state, "extra": Evil()}, tmp_path / "m.pth")
    model = Weights()
    with pytest.raises(UnsafeCheckpointError, match=r"m\.pth was not read.*allow_pickle=True"):
        DetectionCheckpointer(model).load(str(tmp_path / "m.pth"))
    assert float(model.layer.weight.detach().max()) == 0.0
    with caplog.at_level(logging.WARNING):
        extra = DetectionCheckpointer(model, allow_pickle=True).load(str(tmp_path / "m.pth"))["extra"]
    assert extra == 7 << 8, "the code in the file did not run, so this test shows nothing"
    assert float(model.layer.weight.detach().max()) == 6.0
    assert "Running code" in caplog.text


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("torchvision", "backbone.body.conv1.weight"),
        ("mmdetection", "roi_head.bbox_head.fc_cls.weight"),
    ],
)
def test_another_librarys_detector_is_named_instead_of_ignored(tmp_path, library, name):
    wrapped = {name: torch.ones(1)} if library == "torchvision" else {"state_dict": {name: torch.ones(1)}}
    torch.save(wrapped, tmp_path / "m.pth")
    with pytest.raises(ValueError, match=rf"m\.pth holds {library}'s .*--from {library}"):
        DetectionCheckpointer(Weights()).load(str(tmp_path / "m.pth"))
