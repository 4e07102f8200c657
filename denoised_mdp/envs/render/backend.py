"""The choice of a rendering backend that works on this machine.

dm_control reads the environment variable MUJOCO_GL once, when it is first imported. So the choice is made here, before
that import, and one process has at most one OpenGL backend; the ray caster needs none and works with any.
"""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from typing import Literal

from denoised_mdp import variables
from denoised_mdp.errors import UserError

Backend = Literal["egl", "osmesa", "ray"]
BACKENDS = ("auto", "egl", "osmesa", "ray")
INSTALL = {
    "egl": "sudo apt-get install --no-install-recommends libegl1 libgl1",
    "osmesa": "sudo apt-get install --no-install-recommends libosmesa6",
}
_PROBE = """
import mujoco

context = mujoco.GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
"""
_PROBE_SECONDS = 60
_DEVICE = "MUJOCO_EGL_DEVICE_ID"
_OPENGL = ("EGL_", "__EGL_", "LIBGL_", "MESA_", "GALLIUM_", "LD_PRELOAD")  # prefixes of the drivers' variables
_log = logging.getLogger(__name__)


def choose(backend: str) -> Backend:
    """Chooses a backend and prepares the process for it. Call it before anything imports dm_control.

    `auto` takes EGL where it works and else the ray caster; `announce` logs which.

    Raises:
        UserError: an unknown name, a backend that does not work here, or a second OpenGL backend in this process.
    """
    if backend == "auto":
        return _automatic()
    if backend == "ray":
        if _imported() is None:
            os.environ["MUJOCO_GL"] = "disable"  # else the import looks for OpenGL, and may fail or warn
        return "ray"
    if backend != "egl" and backend != "osmesa":
        raise UserError(f"render.backend={backend} is none of {', '.join(BACKENDS)}")
    if (imported := _imported()) is not None:
        if imported != backend:
            raise UserError(
                f"render.backend={backend} is not possible after {'ray' if imported == 'off' else imported} in one "
                "process: dm_control takes one OpenGL backend, fixed when it is first imported"
            )
        return backend
    if not works(backend):
        raise UserError(
            f"render.backend={backend} does not work here: {INSTALL[backend]}, or take render.backend=ray"
            f"{variables.suspects(*_OPENGL)}"
        )
    _prepare(backend)
    return backend


def prepare_for_custom(backend: str) -> None:
    """Makes a custom environment render with this OpenGL backend, if it uses mujoco or dm_control.

    `auto` changes nothing if MUJOCO_GL is set or there is a display; otherwise it takes EGL or OSMesa, if one works.

    Raises:
        UserError: as `choose`.
    """
    if backend in ("egl", "osmesa"):
        choose(backend)
    elif backend == "auto" and not {"MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        for name in ("egl", "osmesa"):
            if _imported() is None and works(name):
                _prepare(name)
                return


def _prepare(backend: Literal["egl", "osmesa"]) -> None:
    os.environ["MUJOCO_GL"] = backend
    os.environ.pop("PYOPENGL_PLATFORM", None)  # mujoco sets it to fit, and refuses another value
    os.environ.setdefault("LP_NUM_THREADS", "0")  # software OpenGL: for such small pictures, threads only cost time


@functools.cache
def works(backend: Literal["egl", "osmesa"]) -> bool:
    """Checks whether this OpenGL backend makes a rendering context, in a separate process, as a failure may crash it.

    An EGL device that does not exist is ignored, with a warning.
    """
    environment = os.environ | {"MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)  # mujoco sets it to fit
    if _renders(environment):
        return True
    device = environment.pop(_DEVICE, None)
    if backend != "egl" or device is None or not _renders(environment):
        return False
    _log.warning("%s=%s is ignored: EGL has no such device here", _DEVICE, device)
    del os.environ[_DEVICE]
    return True


def _renders(environment: dict[str, str]) -> bool:
    try:
        command = [sys.executable, "-c", _PROBE]
        probe = subprocess.run(command, env=environment, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


@functools.cache
def _automatic() -> Backend:
    imported = _imported()
    return choose("egl" if imported == "egl" or (imported is None and works("egl")) else "ray")


@functools.cache
def announce(chosen: Backend) -> None:
    """Logs once which backend `auto` chose, and how to get OpenGL pictures."""
    if chosen == "ray":
        why = variables.suspects(*_OPENGL)
        _log.info("rendering with ray, without OpenGL; for OpenGL pictures: %s%s", INSTALL["egl"], why)
    else:
        _log.info("rendering with %s", chosen)


def _imported() -> str | None:
    """Returns the backend with which dm_control was imported; None if it was not imported."""
    module = sys.modules.get("dm_control._render")
    return None if module is None else module.BACKEND or "off"
