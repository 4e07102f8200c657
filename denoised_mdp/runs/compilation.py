"""Compiled programs are kept on disk, so that a run that goes on, or is looked at, need not compile again."""

from __future__ import annotations

import os

import jax

from denoised_mdp import cache


def cache_programs() -> None:
    """Turns jax's persistent compilation cache on, unless JAX_COMPILATION_CACHE_DIR already says where or whether."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache.folder("jax")))
