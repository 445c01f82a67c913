"""Files are read without running code from them; what cannot be is refused by name."""

import collections
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from mrcnn_plugin.checkpoint import UnsafeCheckpointError, read_checkpoint

MARK = "/tmp/never"


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def weights():
    rng = np.random.default_rng(0)
    return {
        "float": rng.normal(size=(3, 2, 4)).astype("f4"),
        "fortran": np.asfortranarray(rng.normal(size=(3, 2))),
        "half": rng.normal(size=5).astype("f2"),
        "big_endian": np.arange(6, dtype=">i4").reshape(2, 3),
        "empty": np.zeros((0, 4), "f4"),
        "scalar_array": np.array(3, "i8"),
    }


def assert_same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype.newbyteorder("=")
        assert got[name].flags.writeable
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("protocol", range(6))
def test_zoo_pickles_of_arrays_are_read_at_every_protocol(tmp_path, protocol):
    data = {
        "model": collections.OrderedDict(weights()),
        "__author__": "Detectron2 Model Zoo",
        "steps": [1, (2.5, None, True)],
        "lr": np.float64(0.25),
    }
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(data, protocol=protocol))
    got = read_checkpoint(path)
    assert_same(got["model"], data["model"])
    assert isinstance(got["model"], collections.OrderedDict)
    assert got["__author__"] == data["__author__"]
    assert got["steps"] == data["steps"]
    assert got["lr"] == 0.25


def test_arrays_of_python_2_are_read(tmp_path):
    # What `cPickle.dumps({'w': numpy.float32([1, 2])}, 2)` wrote: the array's bytes are a str.
    array = np.array([1.5, -2.25], "<f4")
    dump = (
        b"\x80\x02}q\x01U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff"
        b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08" + array.tobytes() + b"tbs."
    )
    path = tmp_path / "R-50.pkl"
    path.write_bytes(dump)
    np.testing.assert_array_equal(read_checkpoint(path)["w"], array)


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (Call(os.system, f"touch {MARK}"), "system"),
        (Call(eval, "1"), "eval"),
        (Call(getattr, {}, "clear"), "getattr"),
        (np.load, "numpy"),
        (Call(np.dtype, "O").__reduce__, "eval|getattr|Call|builtins"),
        (Call(pickle.loads, b"N."), "loads"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_pickle_that_asks_for_code_is_refused_by_name(tmp_path, payload, name, nested):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": {"w": weights()["float"], "x": payload}} if nested else payload))
    with pytest.raises(UnsafeCheckpointError, match=rf"evil\.pkl was not read.*{name}.*allow_pickle=True"):
        read_checkpoint(path)
    assert not os.path.exists(MARK)


def test_objects_hidden_in_arrays_are_refused(tmp_path):
    path = tmp_path / "objects.pkl"
    path.write_bytes(pickle.dumps({"w": np.array([1, "x"], dtype=object)}))
    with pytest.raises(ValueError, match="does not hold plain numbers"):
        read_checkpoint(path)


def test_a_codec_of_the_files_choice_is_not_run(tmp_path):
    path = tmp_path / "codec.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(ValueError, match="rot13"):
        read_checkpoint(path)


def test_sizes_that_do_not_fit_the_data_are_refused(tmp_path):
    data = pickle.dumps(np.arange(4, dtype="f4"), protocol=2)
    # The shape (4,): K\x04\x85.
    assert data.count(b"K\x04\x85") == 1
    path = tmp_path / "short.pkl"
    path.write_bytes(data.replace(b"K\x04\x85", b"K\x40\x85"))
    with pytest.raises(ValueError, match=r"short\.pkl is not a whole pickle"):
        read_checkpoint(path)


def test_allow_pickle_runs_what_the_file_names(tmp_path, caplog):
    path = tmp_path / "trusted.pkl"
    path.write_bytes(pickle.dumps({"model": Call(dict, [("w", 1)])}))
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.dict|__builtin__\.dict"):
        read_checkpoint(path)
    assert read_checkpoint(path, allow_pickle=True) == {"model": {"w": 1}}
    assert "Running code" in caplog.text


def test_torch_files_are_read_weights_only(tmp_path):
    path = tmp_path / "model.pth"
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    torch.save(
        {
            "model": {"w": torch.arange(3.0)},
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(),
            "iteration": 7,
        },
        path,
    )
    got = read_checkpoint(path)
    assert got["iteration"] == 7
    assert got["scheduler"] == scheduler.state_dict()
    assert torch.equal(got["model"]["w"], torch.arange(3.0))


@pytest.mark.parametrize("suffix", [".pth", ".pyth", ".pkl"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_that_need_code_are_refused(tmp_path, suffix, zipped):
    path = tmp_path / f"evil{suffix}"
    torch.save({"model": Call(os.system, f"touch {MARK}")}, path, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) is zipped
    with pytest.raises(UnsafeCheckpointError, match=r"evil.*weights_only.*system.*allow_pickle"):
        read_checkpoint(path)
    assert not os.path.exists(MARK)


def test_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.arange(4).reshape(2, 2).half()}, tmp_path / "m.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "m.safetensors")["w"], torch.arange(4).reshape(2, 2).half())


@pytest.mark.parametrize("name", ["m.pth", "m.pkl", "m.safetensors"])
def test_damaged_and_missing_files_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at .*{name}"):
        read_checkpoint(tmp_path / name)
    whole = io.BytesIO()
    if name == "m.pth":
        torch.save({"w": torch.ones(100)}, whole)
    elif name == "m.pkl":
        pickle.dump({"w": np.ones(100)}, whole)
    else:
        from safetensors.torch import save

        whole.write(save({"w": torch.ones(100)}))
    (tmp_path / name).write_bytes(whole.getvalue()[:-200])
    with pytest.raises(ValueError, match=f"{name} is not a whole"):
        read_checkpoint(tmp_path / name)
