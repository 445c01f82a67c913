"""Files that other programs read: they parse, and call what exists."""

import re
from importlib.metadata import version
from pathlib import Path

import yaml

import mrcnn_plugin

ROOT = Path(__file__).resolve().parents[1]


def load(path: str):
    return yaml.safe_load((ROOT / path).read_text())


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_citation_has_what_the_format_requires_and_the_version_of_the_package():
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == mrcnn_plugin.__version__ == version("mrcnn_plugin")
    assert all("name" in author or "family-names" in author for author in citation["authors"])
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_changelog_has_the_version_and_the_date_of_the_citation():
    citation = load("CITATION.cff")
    heading = f"## [{citation['version']}] - {citation['date-released']}"
    headings = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "## [Unreleased]"
    assert heading in headings


def test_pre_commit_runs_the_linters_of_make_lint():
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    entries = {" ".join(hook["entry"].split()[:2]) for hook in repository["hooks"]}
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    linted = {" ".join(line.split()[:2]) for line in recipe.replace("$(VENV)", ".venv").splitlines()}
    assert entries == linted


def test_workflow_calls_targets_of_the_makefile_on_the_supported_pythons():
    jobs = load(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    called = {name for command in commands for name in re.findall(r"^make ([\w -]+)", command)}
    assert {"lint", "test", "setup"} == called
    assert called <= targets()
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert jobs["test"]["strategy"]["matrix"]["python-version"][0] == oldest


def test_workflow_tests_the_lock_and_the_newest_releases():
    jobs = load(".github/workflows/ci.yml")["jobs"]
    assert {name for name, job in jobs.items() if "NEWEST" in job.get("env", {})} == {"newest"}
    assert [step["run"] for step in jobs["newest"]["steps"] if "run" in step] == ["make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^NEWEST \?=$", makefile, re.MULTILINE)
    assert re.search(r"^ifeq \(\$\(NEWEST\),\)$", makefile, re.MULTILINE)


def test_issue_forms_have_fields_with_labels():
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    assert "blank_issues_enabled" in yaml.safe_load((folder / "config.yml").read_text())
    for path in sorted(set(folder.glob("*.yml")) - {folder / "config.yml"}):
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))
        assert all(field["attributes"]["label"] for field in form["body"])
