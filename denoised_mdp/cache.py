"""The cache folder, for files that the program can make again."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)


def folder(name: str) -> Path:
    """Returns this project's folder of that name in the user's cache: below $XDG_CACHE_HOME, or ~/.cache.

    The folder exists and is writable. If the cache is not writable, the folder is a temporary one.
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(home) / "denoised-mdp" / name
        problem = obstacle(path)
        if problem is None:
            return path
    except RuntimeError as error:  # there is no home folder
        problem = str(error)
    instead = _temporary() / name
    instead.mkdir(exist_ok=True)
    _warn(f"the cache is in {instead} for now: {problem}; XDG_CACHE_HOME can set another folder")
    return instead


def obstacle(folder: Path) -> str | None:
    """Makes a folder if it is missing; returns why it is not writable, or None if it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return " ".join(str(error).split())
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"


@functools.cache
def _temporary() -> Path:
    """Returns one folder for all processes of this user; does not trust a folder that another user owns."""
    path = Path(tempfile.gettempdir(), f"denoised-mdp-{os.getuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    return path if path.stat().st_uid == os.getuid() else Path(tempfile.mkdtemp(prefix="denoised-mdp-"))


@functools.cache
def _warn(message: str) -> None:
    _log.warning("%s", message)
