"""DetectionCheckpointer reads what Detectron2's reads, and only that; what it writes is whole or absent."""

import logging
import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn

from mrcnn_plugin.checkpoint import DetectionCheckpointer, check_weights
from mrcnn_plugin.errors import ConfigError


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
    with pytest.raises(ConfigError, match=r"m\.pth was not read.*allow_pickle=True"):
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


def test_a_write_that_breaks_off_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    model = nn.Linear(2, 3)
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.save("model_a", iteration=1)
    weight = model.weight.detach().clone()
    save = torch.save

    def broken(data, file):
        save(data, file)
        file.truncate(100)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    nn.init.zeros_(model.weight)
    for name in ("model_a", "model_b"):
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(name, iteration=2)
    assert {path.name for path in tmp_path.iterdir()} == {"model_a.pth", "last_checkpoint"}
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_a.pth")
    assert checkpointer.resume_or_load("")["iteration"] == 1
    assert torch.equal(model.weight, weight)


def test_whole(tmp_path):
    DetectionCheckpointer(nn.Linear(2, 3), str(tmp_path)).save("model")
    path = str(tmp_path / "model.pth")
    DetectionCheckpointer(nn.Linear(2, 3), whole=True).load(path)
    DetectionCheckpointer(nn.Linear(2, 4)).load(path)
    with pytest.raises(ConfigError, match=r"2 of its parameters .* such as 'weight'"):
        DetectionCheckpointer(nn.Linear(2, 4), whole=True).load(path)
    with pytest.raises(ConfigError, match=r"such as '0\.weight'"):
        DetectionCheckpointer(nn.Sequential(nn.Linear(2, 3)), whole=True).load(path)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_file(tmp_path, content):
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=r"weights '.*bad\.pth' cannot be loaded: ") as error:
        DetectionCheckpointer(nn.Linear(2, 3)).load(str(tmp_path / "bad.pth"))
    assert "\n" not in str(error.value)


def test_check_weights(tmp_path):
    (tmp_path / "here.pth").touch()
    for path in ("", str(tmp_path / "here.pth"), "detectron2://somewhere.pkl", "https://host/x.pth"):
        check_weights(path, "key")
    with pytest.raises(ConfigError, match="key: no weights at"):
        check_weights(str(tmp_path / "absent.pth"), "key")
