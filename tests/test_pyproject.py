"""pyproject.toml declares the libraries that the package imports, and no other; and every package of it."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Distributions whose modules have other names.
MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "hydra-core": "hydra",
}
# On no registry under its own name: the README says how to install it.
UNDECLARED = {"detectron2", "mrcnn_plugin"}
# Declared for another library, which does not require it itself: distribution -> module that imports it.
IMPORTED_BY = {
    "shapely": "detectron2.data.datasets.cityscapes",
    "lvis": "detectron2.evaluation.lvis_evaluation",
}


def imported_modules() -> set[str]:
    """First parts of the absolute imports of third-party modules in the installed sources."""
    names: set[str] = set()
    for folder in ("mrcnn_plugin", "projects", "configs"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - UNDECLARED


def declared_distributions() -> set[str]:
    project = PROJECT["project"]
    requirements = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    return {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in requirements}


def module_of(distribution: str) -> str:
    return MODULES.get(distribution, distribution.replace("-", "_"))


def test_every_import_is_declared_and_every_declaration_imported():
    imported = imported_modules()
    assert {"torch", "cv2", "yaml"} <= imported
    assert {module_of(name) for name in declared_distributions() - IMPORTED_BY.keys()} == imported


@pytest.mark.parametrize("distribution", IMPORTED_BY)
def test_what_is_declared_for_another_library_is_imported_there(distribution):
    assert distribution in declared_distributions()
    source = Path(importlib.util.find_spec(IMPORTED_BY[distribution]).origin).read_text(encoding="utf-8")
    assert re.search(rf"^\s*(import|from) {module_of(distribution)}\b", source, re.MULTILINE)


def test_every_package_is_installed():
    on_disk = {
        ".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "mrcnn_plugin").rglob("__init__.py")
    }
    assert on_disk | {"mrcnn_plugin.configs", "mrcnn_plugin.projects"} == set(
        PROJECT["tool"]["setuptools"]["packages"]
    )
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["mrcnn_plugin"]
    assert (ROOT / "mrcnn_plugin" / "py.typed").is_file()
