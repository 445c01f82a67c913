"""What is not C++ in a CUDA source, rewritten for the host compiler; lines stay where they are."""

from __future__ import annotations

import re

_SHARED = re.compile(
    r"(?<!\w)__shared__\s+(?!__align__)(?P<type>[^;=]+?)\s*\b(?P<name>\w+)(?P<extent>(?:\[[^\]]*\])*)\s*;"
)
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?(?P<type>\w+)\s+(?P<name>\w+)\[\]\s*;")
_LAUNCH = re.compile(r"(?P<kernel>\w+)\s*<<<(?P<shape>.*?)>>>\s*\(", re.DOTALL)
_KERNEL = re.compile(r"\b__global__\b")


def kernels(text: str) -> list[str]:
    """Names of the kernels that a source defines."""
    return [name for _, name, _ in _definitions(text)]


def for_host(text: str) -> str:
    """The source with launches, shared variables and kernel entries as calls of the engine."""
    for body, _, bounds in reversed(_definitions(text)):
        text = f"{text[:body]} cuda_host::enter_kernel(__PRETTY_FUNCTION__, {bounds});{text[body:]}"
    text = _DYNAMIC.sub(
        r"\g<type>* \g<name> = static_cast<\g<type>*>(cuda_host::dynamic_shared_memory());", text
    )
    text = _SHARED.sub(lambda m: f"CUDA_HOST_SHARED({m['name']}, {m['extent']}, {m['type']});", text)
    return _LAUNCH.sub(lambda m: f"cuda_host::Launch({m['shape']})({m['kernel']}, ", text)


def _definitions(text: str) -> list[tuple[int, str, str]]:
    """(offset behind the opening brace, name, largest number of threads or "0") of every kernel."""
    found = []
    for match in _KERNEL.finditer(text):
        at = match.end()
        bounds = "0"
        launch_bounds = re.compile(r"\s*void\s+__launch_bounds__\s*\(").match(text, at)
        if launch_bounds:
            at = _closing(text, launch_bounds.end())
            bounds = _first_argument(text[launch_bounds.end() : at - 1])
        name = re.compile(r"\s*(?:void\s+)?(\w+)\s*\(").match(text, at)
        if name is None:
            raise ValueError(f"no kernel is defined after __global__ in: {text[match.start() :][:120]!r}")
        at = _closing(text, name.end())
        brace = re.compile(r"\s*\{").match(text, at)
        if brace:  # otherwise a declaration
            found.append((brace.end(), name[1], bounds))
    return found


def _closing(text: str, at: int) -> int:
    """Offset behind the parenthesis that closes the one before `at`."""
    depth = 1
    while depth:
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 1
    return at


def _first_argument(text: str) -> str:
    depth = 0
    for at, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            return text[:at].strip()
    return text.strip()
