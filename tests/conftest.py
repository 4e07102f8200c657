"""All tests run on the CPU, and adding arrays of different ranks is an error instead of a broadcast."""

import os

# Before jax is imported. Tests run tiny programs once: compiling them well would take longer than running them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
