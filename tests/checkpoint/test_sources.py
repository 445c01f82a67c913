"""package:// and timm:// paths: what they find, what they refuse, and that nothing of a package runs."""

import sys

import pytest
import torch
from detectron2.utils.file_io import PathManager

from mrcnn_plugin.checkpoint import check_weights
from mrcnn_plugin.errors import ConfigError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that holds weights and refuses to be imported."""
    folder = tmp_path / "weights_of_a_test"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save({"a": torch.ones(1)}, folder / "models" / "net.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_the_one_file_of_a_package(package):
    path = PathManager.get_local_path("package://weights_of_a_test")
    assert path == str(package / "models" / "net.pth")
    assert PathManager.isfile("package://weights_of_a_test")
    with PathManager.open("package://weights_of_a_test", "rb") as file:
        assert torch.equal(torch.load(file)["a"], torch.ones(1))
    assert "weights_of_a_test" not in sys.modules
    with pytest.raises(OSError, match="can only be read"):
        PathManager.open("package://weights_of_a_test", "wb")


def test_a_package_of_several_files_wants_its_path(package):
    torch.save({}, package / "other.pt")
    with pytest.raises(
        ConfigError, match=r"expected one weight file .*found .*/models/net\.pth, .*other\.pt"
    ):
        PathManager.get_local_path("package://weights_of_a_test")
    found = PathManager.get_local_path("package://weights_of_a_test/other.pt")
    assert found == str(package / "other.pt")
    with pytest.raises(ConfigError, match=r"the package has no file 'third\.pt'"):
        PathManager.get_local_path("package://weights_of_a_test/third.pt")


def test_a_package_without_weights(package):
    (package / "models" / "net.pth").unlink()
    with pytest.raises(ConfigError, match="expected one weight file in the package, found none"):
        PathManager.get_local_path("package://weights_of_a_test")


@pytest.mark.parametrize("name", ["no_such_weights", "os.path", "", "json"])
def test_no_such_package(name):
    with pytest.raises(ConfigError, match=rf"package://{name}: (no Python package|expected one weight file)"):
        PathManager.get_local_path(f"package://{name}")


def test_weights_are_looked_for_before_a_run(package):
    check_weights("package://weights_of_a_test", "train.init_checkpoint")
    with pytest.raises(ConfigError, match=r"^train\.init_checkpoint: package://absent_one: .*absent-one$"):
        check_weights("package://absent_one", "train.init_checkpoint")


class Hub:
    """In place of the Hugging Face hub: the files that it has, and what was asked of it."""

    def __init__(self, folder, files, error=None):
        self.folder, self.files, self.error, self.asked = folder, files, error, []

    def __call__(self, repository, file, revision=None):
        from huggingface_hub.errors import EntryNotFoundError

        self.asked.append((repository, file))
        if self.error is not None:
            raise self.error
        if file not in self.files:
            raise EntryNotFoundError(f"no {file}")
        (self.folder / file).write_bytes(b"")
        return str(self.folder / file)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_timm_downloads_by_its_own_names(tmp_path, monkeypatch, file):
    hub = Hub(tmp_path, [file])
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    assert PathManager.get_local_path("timm://resnet50d.ra2_in1k") == str(tmp_path / file)
    assert {repository for repository, _ in hub.asked} == {"timm/resnet50d.ra2_in1k"}
    assert hub.asked[0][1] == "model.safetensors"


def test_timm_without_network_is_one_line(tmp_path, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    hub = Hub(tmp_path, [], LocalEntryNotFoundError("An error happened\nover many lines"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    with pytest.raises(
        ConfigError, match=r"^train\.init_checkpoint: timm://resnet50d: .*not in the cache"
    ) as e:
        check_weights("timm://resnet50d", "train.init_checkpoint")
    assert "\n" not in str(e.value)
    # A second file would only be waited for.
    assert len(hub.asked) == 1


def test_timm_files_that_the_hub_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Hub(tmp_path, []))
    with pytest.raises(ConfigError, match=r"has neither model\.safetensors nor pytorch_model\.bin"):
        PathManager.get_local_path("timm://resnet50d")


@pytest.mark.parametrize("name", ["resnet50d.moon", "no_such_model", ""])
def test_timm_has_no_such_weights(name):
    with pytest.raises(ConfigError, match=rf"timm://{name}: "):
        PathManager.get_local_path(f"timm://{name}")
