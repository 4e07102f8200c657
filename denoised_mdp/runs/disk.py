"""Bringing files to the disk for good, and checksums that reveal what has happened to them since. No jax here."""

from __future__ import annotations

import os
import zlib
from pathlib import Path


def sync(path: Path) -> None:
    """Flushes a file, or a folder's entries, to the disk, so that they survive a power cut.

    Raises:
        OSError: the disk refuses.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(data: bytes | memoryview, before: int = 0) -> int:
    """Returns the CRC-32 of bytes that follow those with the checksum `before`."""
    return zlib.crc32(data, before)
