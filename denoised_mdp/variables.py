"""Environment variables that would change the results of a run, or make it fail. No jax here."""

from __future__ import annotations

import logging
import os

# Variables of jax that change numbers, types or random streams; only a run's settings may do so. With their defaults.
_IGNORED = {
    "JAX_ENABLE_X64": ("0", "false", "off", "no", "f", "n", ""),
    "JAX_DEFAULT_DTYPE_BITS": (),
    "JAX_DEFAULT_PRNG_IMPL": ("threefry2x32",),
    "JAX_THREEFRY_PARTITIONABLE": ("1", "true", "on", "yes", "t", "y"),
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard",),
}
_log = logging.getLogger(__name__)


def drop_what_changes_numbers() -> None:
    """Removes variables that would change a run's numbers, with a warning. Call it before jax is imported."""
    for name, usual in _IGNORED.items():
        value = os.environ.pop(name, None)
        if value is not None and value.lower() not in usual:
            _log.warning("%s=%s is ignored: only the settings of a run may change its numbers", name, value)


def suspects(*beginnings: str) -> str:
    """Returns "; the cause may be NAME=value" for variables whose names begin so, or "" if none is set."""
    settings = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(beginnings)]
    return f"; the cause may be {' or '.join(settings)}" if settings else ""
