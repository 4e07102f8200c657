"""What a shell may have set, and caches that cannot be written: the run works, or one line names the variable."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from denoised_mdp import cache, variables
from denoised_mdp.envs.render import backend
from denoised_mdp.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
needs_egl = pytest.mark.skipif(not backend.works("egl"), reason="no EGL here")


def run(code: str, **changes: str) -> subprocess.CompletedProcess:
    environment = {"JAX_PLATFORMS": "cpu", **os.environ, **changes}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_what_would_change_a_run_s_numbers_is_dropped_and_said(monkeypatch, caplog):
    monkeypatch.setenv("JAX_ENABLE_X64", "True")
    monkeypatch.setenv("JAX_DEFAULT_PRNG_IMPL", "threefry2x32")  # as ever: no word
    variables.drop_what_changes_numbers()
    assert "JAX_ENABLE_X64" not in os.environ and "JAX_DEFAULT_PRNG_IMPL" not in os.environ
    assert [record.message for record in caplog.records] == [
        "JAX_ENABLE_X64=True is ignored: only the settings of a run may change its numbers"
    ]


def test_a_script_computes_in_32_bits_whatever_the_shell_says():
    code = """
from denoised_mdp import cli
with cli._one_line_errors(False):
    import jax.numpy as jnp
    print(jnp.zeros(1).dtype, (jnp.arange(2) + 1.5).dtype)
"""
    assert run(code, JAX_ENABLE_X64="1").stdout.split() == ["float32", "float32"]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("JAX_NO_JIT", "perhaps", "cli._check_jax()"),
        ("JAX_DISABLE_JIT", "perhaps", "cli._check_jax()"),
        ("JAX_PLATFORMS", "abacus", "from denoised_mdp.runs.compilation import cache_programs; cache_programs()"),
    ],
)
def test_a_value_that_jax_does_not_know_is_one_line(name, value, code):
    done = run(f"from denoised_mdp import cli\nwith cli._one_line_errors(False):\n    {code}", **{name: value})
    if name == "JAX_NO_JIT":  # it is none of jax's
        assert done.returncode == 0
    else:
        assert done.returncode == 2 and done.stderr.startswith("error: jax") and name in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_elsewhere(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    cache._temporary.cache_clear()
    cache._warn.cache_clear()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    try:
        assert cache.folder("videos") == (found := cache.folder("videos"))
    finally:
        cache._temporary.cache_clear()
    assert found.is_dir() and found.parent.parent == tmp_path
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "XDG_CACHE_HOME can set another" in record.message


def test_a_cache_of_programs_that_cannot_be_written_is_none(tmp_path):
    (tmp_path / "file").touch()
    code = "import jax; from denoised_mdp.runs.compilation import cache_programs; cache_programs()\n"
    done = run(f"{code}print(jax.config.jax_compilation_cache_dir)", JAX_COMPILATION_CACHE_DIR=f"{tmp_path}/file/jax")
    assert done.stdout == "None\n" and f"JAX_COMPILATION_CACHE_DIR={tmp_path}/file/jax is ignored" in done.stderr


def test_a_backend_that_does_not_work_names_what_the_drivers_read(monkeypatch):
    monkeypatch.setattr(backend, "works", lambda name: False)
    monkeypatch.setattr(backend, "_imported", lambda: None)
    monkeypatch.setenv("LIBGL_DRIVERS_PATH", "/nowhere")
    with pytest.raises(UserError, match=r"does not work here: .*; the cause may be LIBGL_DRIVERS_PATH=/nowhere$"):
        backend.choose("osmesa")


@needs_egl
@pytest.mark.parametrize(("name", "value"), [("PYOPENGL_PLATFORM", "osmesa"), ("MUJOCO_EGL_DEVICE_ID", "77")])
def test_what_stands_in_the_way_of_egl_is_set_aside(name, value):
    code = """
from denoised_mdp.envs.render import backend
print(backend.choose("egl"))
import mujoco
mujoco.GLContext(8, 8).make_current()
"""
    done = run(code, **{name: value})
    assert (done.returncode, done.stdout) == (0, "egl\n"), done.stderr
    assert ("77 is ignored" in done.stderr) == (name == "MUJOCO_EGL_DEVICE_ID")
