"""What instructions a processor has, for files that hold machine code."""

from __future__ import annotations

import re
from pathlib import Path

#: The key under which an AOTInductor package names the instruction sets of the processor that it is for.
INSTRUCTIONS = "instructions"

# Those that compilers make use of unasked, as Linux spells them.
_SETS = re.compile(r"(sse|ssse|avx|fma|f16c|bmi|abm|popcnt|movbe|gfni|vaes|amx)\w*")


def instructions() -> set[str]:
    """The instruction sets of this machine's x86 processor; of others, or where it cannot be read, none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    flags = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return {flag for flag in flags[1].split() if _SETS.fullmatch(flag)} if flags else set()
