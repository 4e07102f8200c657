"""All tests run on the CPU, and adding arrays of different ranks is an error instead of a broadcast."""

import functools
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

# Before jax is imported. Tests run tiny programs once: compiling them well would take longer than running them.
# Fusion emitters double the time of compiling; jaxlib 0.11 and later have no other way to fuse.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(100_000)  # tracing makes so many objects that looking through them takes a tenth of the time


def pytest_configure(config: pytest.Config) -> None:
    """Compiled programs are shared by all tests of this call and the scripts that they start, and by nothing else."""
    if not hasattr(config, "workerinput"):  # pytest-xdist's workers start with this process's environment
        folder = tempfile.mkdtemp(prefix="programs-")
        config.add_cleanup(functools.partial(shutil.rmtree, folder, ignore_errors=True))
        settings = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 0.1}
        for name, value in settings.items():
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)
