"""How config files are written: the rules of configs/README.md, and the index pages."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mrcnn_plugin import model_zoo

CONFIGS, PROJECTS = model_zoo.config_root(), model_zoo.project_root()
FILES = {f"configs/{path.relative_to(CONFIGS).as_posix()}": path for path in sorted(CONFIGS.rglob("*.py"))}
FILES |= {
    f"projects/{path.relative_to(PROJECTS).as_posix()}": path
    for path in sorted(PROJECTS.glob("*/configs/**/*.py"))
}
SECTIONS = ["model", "dataloader", "optimizer", "train"]


def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """The import statements of a file, in order."""
    return [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]


@pytest.mark.parametrize("name", FILES)
class TestImports:
    def test_mrcnn_plugin_comes_before_detectron2(self, name):
        statements = imports(FILES[name])
        of_detectron2 = [n for n in statements if (getattr(n, "module", None) or "").startswith("detectron2")]
        plain = [n for n in statements if isinstance(n, ast.Import) and n.names[0].name == "mrcnn_plugin"]
        assert len(plain) == (1 if of_detectron2 else 0)
        if of_detectron2:
            assert plain[0].lineno < of_detectron2[0].lineno

    def test_relative_imports_stay_in_the_folder_of_configs(self, name):
        depth = len(Path(name.split("configs/", 1)[1]).parts)
        levels = [n.level for n in imports(FILES[name]) if isinstance(n, ast.ImportFrom)]
        assert max(levels, default=0) <= depth


def test_only_functions_are_imported_from_the_package_of_configs():
    """A node would be one object for every config that changes it."""
    imported = {
        (node.module, alias.name)
        for path in FILES.values()
        for node in imports(path)
        if isinstance(node, ast.ImportFrom) and not node.level and ".configs." in f"{node.module}."
        for alias in node.names
    }
    assert imported
    for module, name in imported:
        assert inspect.isfunction(getattr(importlib.import_module(module), name)), f"{module}.{name}"


HELPERS = {
    f"{name}:{node.name}": node
    for name, path in FILES.items()
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("use_")
}


@pytest.mark.parametrize("helper", HELPERS)
def test_helpers_have_one_signature(helper):
    """Sections of the config in one order, by their names; all else by keyword."""
    assert "/common/" in helper
    arguments = HELPERS[helper].args
    sections = [argument.arg for argument in arguments.args]
    assert sections
    assert sections == [section for section in SECTIONS if section in sections]
    assert arguments.vararg is None


def test_a_config_loads_before_anything_else_of_the_package():
    """As in Detectron2's own tool; Detectron2 0.6 needs what the package applies when it is imported."""
    code = """
import sys
from detectron2.config import LazyConfig
assert "mrcnn_plugin" not in sys.modules
print(*sorted(LazyConfig.load(sys.argv[1])))
"""
    path = model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["dataloader", "lr_multiplier", "model", "optimizer", "train"]


def listed(readme: Path) -> set[str]:
    """What a table's first column names in backticks, as paths from the headings' folders on."""
    found, folder = set(), ""
    for line in readme.read_text().splitlines():
        if heading := re.match(r"#+ `(.+)/`", line):
            folder = f"{heading[1]}/"
        elif row := re.match(r"\| `([^`]+\.py)` \|", line):
            found.add(folder + row[1])
    return found


def test_every_config_is_in_the_index():
    names = model_zoo.list_configs()
    assert listed(CONFIGS / "README.md") == {name for name in names if not name.startswith("projects/")}
    of_projects = {name for name in names if name.startswith("projects/")}
    assert listed(PROJECTS / "README.md") == {name.removeprefix("projects/") for name in of_projects}


def test_every_project_is_in_the_index():
    text = (PROJECTS / "README.md").read_text()
    projects = [path.parent.name for path in PROJECTS.glob("*/__init__.py")]
    assert projects
    assert [name for name in projects if f"({name}/README.md)" not in text] == []
