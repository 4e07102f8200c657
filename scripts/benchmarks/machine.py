"""A description of the machine of a measurement, without names of hosts or users."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path

import jax

from benchmarks.table import Row

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "dm_control")


def describe() -> list[Row]:
    """Returns processor, memory, accelerator, versions, the load, and the flags of XLA."""
    device = jax.devices()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    precision = jax.config.values["jax_default_matmul_precision"]
    return [
        Row("cpu", _processor()),
        Row("cores", len(os.sched_getaffinity(0)), note="available to this process"),
        Row("memory", memory / 2**30, "GiB"),
        Row("device", f"{jax.device_count()} x {device.device_kind}", note=device.platform),
        Row("load", os.getloadavg()[0], "processes", "in the last minute, before the measurement"),
        Row("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        Row("versions", ", ".join(f"{name} {version(name)}" for name in PACKAGES)),
        Row("XLA_FLAGS", os.environ.get("XLA_FLAGS", "")),
        Row("matmul_precision", str(precision), note="jax's setting for float32"),
    ]


def resident() -> Row:
    """Returns the highest resident memory of this process so far."""
    return Row("host_memory_peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "GiB", "resident")


def on_device() -> Row:
    """Returns the highest memory use of the accelerator so far; None on a CPU, which uses the host's."""
    stats = jax.devices()[0].memory_stats() or {}
    used = stats.get("peak_bytes_in_use")
    return Row("device_memory_peak", None if used is None else used / 2**30, "GiB", "as the allocator counts")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
