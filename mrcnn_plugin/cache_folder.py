"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """$MRCNN_PLUGIN_CACHE, else mrcnn_plugin/ in the user's cache folder."""
    own = os.environ.get("MRCNN_PLUGIN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base, "mrcnn_plugin")
