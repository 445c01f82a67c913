"""Parameter names of one library into those of another, by rules that must cover every name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

#: (pattern of the whole name, new name): \N is the pattern's group N, {\N+1}, {\N-5}, {\N//2+1} arithmetic.
Rule = tuple[str, str]

_ARITHMETIC = re.compile(r"\{(\d+)(?://(\d+))?(?:([+-])(\d+))?\}")


def rename(state_dict: Mapping[str, Tensor], rules: Iterable[Rule], library: str) -> dict[str, Tensor]:
    """`state_dict` under new names.

    Raises:
        ValueError: a name that no rule knows, or two names that become one; `library` is named in it.
    """
    compiled = [(re.compile(pattern), new) for pattern, new in rules]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, value in state_dict.items():
        new = next((m.expand(new) for pattern, new in compiled if (m := pattern.fullmatch(name))), None)
        if new is None:
            unknown.append(name)
            continue
        new = _ARITHMETIC.sub(_evaluate, new)
        if new in renamed:
            raise ValueError(f"two {library} parameters become {new}; one of them is {name}")
        renamed[new] = value
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise ValueError(f"{library} parameters that its R-CNN detectors do not have: {shown}")
    return renamed


def _evaluate(match: re.Match[str]) -> str:
    number, divisor, sign, offset = match.groups()
    value = int(number) // int(divisor or 1)
    return str(value + int(f"{sign}{offset}") if offset else value)
