"""YAML files that unfold without end, or that are their own base, are told in one line."""

from __future__ import annotations

import string

import pytest

from mrcnn_plugin.config import load_config
from mrcnn_plugin.errors import ConfigError


def laughs(levels: int) -> str:
    names = string.ascii_lowercase
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{names[i + 1]}: &{names[i + 1]} [{', '.join([f'*{names[i]}'] * 10)}]" for i in range(levels)]
    return "\n".join([*lines, "model: 1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(14), "stand for more than 200,000 values"),
        ("a: &a [*a]\nmodel: 1", "stand for more than 200,000 values"),
        ("model: " + 700 * "[", "is not a YAML file: maximum recursion depth"),
        ("model: \0", "is not a YAML file: unacceptable character"),
        ("model: *nowhere", "is not a YAML file: found undefined alias"),
        ("", "expected a mapping of keys at its top level"),
        ("- model", "expected a mapping of keys at its top level"),
        ("model: " + 6000 * "9", "could not be loaded: Exceeds the limit"),
        ("MODEL: 3", "Type mismatch"),
        ("MODEL: {FOO: 1}", "Non-existent config key: MODEL.FOO"),
        ("SOLVER: {MAX_ITER: .inf}", "Type mismatch"),
        ("_BASE_: c.yaml", r"its _BASE_ leads back to itself: .*c\.yaml -> .*c\.yaml"),
        ("_BASE_: other.yaml", r"its _BASE_ leads back to itself: .*c\.yaml -> .*other\.yaml -> .*c\.yaml"),
        ("_BASE_: nowhere.yaml", r"its _BASE_ '.*nowhere\.yaml' does not exist"),
        ("_BASE_: [[a]]", "_BASE_ must be a path, or a list of paths"),
        ("_BASE_: {a: b}", "_BASE_ must be a path, or a list of paths"),
        ("_BASE_: ''", "_BASE_ must be a path, or a list of paths"),
        ("_BASE_: empty.yaml", r"empty\.yaml is not a config"),
    ],
)
@pytest.mark.parametrize("trusted", [True, False])
def test_one_line(tmp_path, text, message, trusted):
    (tmp_path / "c.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("_BASE_: [c.yaml]")
    (tmp_path / "empty.yaml").touch()
    with pytest.raises(ConfigError, match=message) as error:
        load_config(str(tmp_path / "c.yaml"), trusted=trusted)
    assert "\n" not in str(error.value)


def test_bases_still_work(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.yaml").write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}")
    (tmp_path / "c.yaml").write_text("_BASE_: base/a.yaml\nSOLVER: {MAX_ITER: 8}")
    cfg = load_config(str(tmp_path / "c.yaml")).raw
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 8)
