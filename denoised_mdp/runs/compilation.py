"""A cache of compiled programs on disk, so that resuming or analysing a run needs no new compilation."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jax

from denoised_mdp import cache, variables
from denoised_mdp.errors import UserError, one_line

_log = logging.getLogger(__name__)


def cache_programs() -> None:
    """Turns jax's persistent compilation cache on, unless JAX_COMPILATION_CACHE_DIR sets or disables it.

    This is the first function that needs a device.

    Raises:
        UserError: jax finds no device.
    """
    try:
        jax.devices()
    except RuntimeError as error:
        raise UserError(f"jax finds no device: {one_line(error)}{variables.suspects('JAX_PLATFORMS')}") from error
    given = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if given is None:
        jax.config.update("jax_compilation_cache_dir", str(cache.folder("jax")))
    elif given and "://" not in given and (problem := cache.obstacle(Path(given))):
        _log.warning("JAX_COMPILATION_CACHE_DIR=%s is ignored: %s", given, problem)
        jax.config.update("jax_compilation_cache_dir", None)
