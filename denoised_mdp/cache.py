"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """This project's folder of that name in the user's cache: below $XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "denoised-mdp" / name
