"""The documents speak of files, modules and links that exist, and of imports as they are."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "configs/README.md", "projects/README.md"),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
]
TOP = "benchmarks|configs|csrc|docs|mrcnn_plugin|projects|tests|\\.github"
PATH = re.compile(
    rf"(?<![\w/.-])(?:{TOP})/[\w./*<>{{}},-]*|(?<![\w/.}}-])[\w-]+\.(?:md|toml|cff|py)(?![\w.])"
)
MODULE = re.compile(r"(?<![\w./])mrcnn_plugin(?:\.\w+)+")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
# Not of the repository: what runs write, and placeholders of names.
NOT_MODULES = {"mrcnn_plugin.ops.box_areas", "mrcnn_plugin.projects.NAME", "mrcnn_plugin.x.y"}


def text_of(document: str) -> str:
    return (ROOT / document).read_text()


def code_of(text: str) -> Iterator[str]:
    """Code spans and shell blocks; blocks in other languages are examples of files that do not exist."""
    for _, language, code in FENCE.findall(text):
        if language == "sh":
            yield code
    yield from SPAN.findall(FENCE.sub("", text))


def alternatives(path: str) -> list[str]:
    """`{mask,keypoint}_rcnn.py` -> both names."""
    choice = re.search(r"\{([^}]*)\}", path)
    if choice is None:
        return [path]
    begin, end = path[: choice.start()], path[choice.end() :]
    return [name for part in choice[1].split(",") for name in alternatives(begin + part + end)]


def exists(path: str, document: str) -> bool:
    if "<" in path or "NAME" in path:
        return True
    if "/" not in path:
        # A file by its name alone: at the top, or in a folder that the text is about.
        below = [ROOT / folder for folder in ("configs", "projects", "mrcnn_plugin")]
        return (ROOT / path).exists() or any(any(folder.glob(f"**/{path}")) for folder in below)
    return any(any(base.glob(path.rstrip("/"))) for base in (ROOT, ROOT / Path(document).parent))


def names_of_paths(document: str) -> list[str]:
    found = {m.rstrip(".,") for code in code_of(text_of(document)) for m in PATH.findall(code)}
    return sorted(found)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_exist(document):
    paths = names_of_paths(document)
    assert [path for given in paths for path in alternatives(given) if not exists(path, document)] == []


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:depth]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[depth:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


# The changelog speaks of former names, too.
@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "CHANGELOG.md"])
def test_names_can_be_imported(document):
    text = re.sub(r"torch\.ops\.mrcnn_plugin", "", text_of(document))
    names = {name for code in code_of(text) for name in MODULE.findall(code)} - NOT_MODULES
    assert [name for name in sorted(names) if not resolves(name)] == []


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "document",
    [
        *DOCUMENTS,
        *(f"{p.parent.relative_to(ROOT)}/README.md" for p in sorted((ROOT / "projects").glob("*/README.md"))),
    ],
)
def test_links_resolve(document):
    broken = []
    for link in LINK.findall(text_of(document)):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def documented_imports() -> dict[str, set[str]]:
    """package -> packages that the diagram of docs/architecture.md lets it import, directly or not."""
    diagram = next(code for _, _, code in FENCE.findall(text_of("docs/architecture.md")) if "--> ops" in code)
    direct: dict[str, set[str]] = {}
    for line in re.sub(r"\[.*?\]+", "", diagram).splitlines():
        if " --> " in line:
            sources, targets = (side.replace(" ", "").split("&") for side in line.split(" --> "))
            for source in sources:
                direct.setdefault(source, set()).update(targets)

    def below(package: str) -> set[str]:
        return {package}.union(*map(below, direct.get(package, ())))

    return {package: below(package) for package in direct}


def imports_of(file: Path) -> Iterator[str]:
    """Packages of this project that a file imports absolutely."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "mrcnn_plugin" and len(parts) > 1:
                yield parts[1]


def sources() -> Iterator[tuple[str, Path]]:
    for folder in (
        "ops",
        "modeling",
        "data",
        "evaluation",
        "checkpoint",
        "config",
        "train",
        "predict",
        "export",
        "runtime",
        "reporting",
        "serve",
    ):
        for file in (ROOT / "mrcnn_plugin" / folder).rglob("*.py"):
            # A program that stands above the packages that it shows.
            yield "show" if file.match("data/show.py") else folder, file
    for file in (ROOT / "configs").rglob("*.py"):
        yield "configs", file
    for file in (ROOT / "projects").rglob("*.py"):
        yield ("projectconfigs" if "configs" in file.parts[:-1] else "projects"), file


def test_imports_follow_the_arrows():
    allowed = documented_imports()
    shared = {"errors", "atomic_files", "model_zoo", "compat", "collect_env", "__version__"}
    against = {
        f"{file.relative_to(ROOT)} imports {package}"
        for folder, file in sources()
        for package in imports_of(file)
        if package not in allowed.get(folder, {folder}) | shared
    }
    assert against == set()
    # The diagram is read as it is meant.
    assert allowed["train"] >= {"ops", "data", "modeling", "config"}
    assert "train" not in allowed["config"]
