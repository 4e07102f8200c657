"""Which way of rendering works on this machine.

dm_control reads the environment variable MUJOCO_GL once, when it is first imported. So the choice is made here, before
that import, and one process has at most one OpenGL backend; the ray caster needs none and goes with any.
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
_OPENGL = ("EGL_", "__EGL_", "LIBGL_", "MESA_", "GALLIUM_", "LD_PRELOAD")  # what the drivers read
_log = logging.getLogger(__name__)


def choose(backend: str) -> Backend:
    """Settles on a backend and prepares the process for it. Call it before anything imports dm_control.

    `auto` takes EGL where it works and else the ray caster; `announce` says which.

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
    """Has an environment of the user's draw through this OpenGL backend, should it use mujoco or dm_control.

    `auto` leaves it what MUJOCO_GL says or a screen offers; without either it takes EGL or OSMesa, where that works.

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
    os.environ.pop("PYOPENGL_PLATFORM", None)  # mujoco sets it to suit, and refuses another one
    os.environ.setdefault("LP_NUM_THREADS", "0")  # software OpenGL: at such sizes, threads only cost


@functools.cache
def works(backend: Literal["egl", "osmesa"]) -> bool:
    """Whether this OpenGL backend makes a rendering context, tried in a process of its own, as failing may crash it.

    A device that EGL does not have is forgotten, with a warning.
    """
    environment = os.environ | {"MUJOCO_GL": backend}
    environment.pop("PYOPENGL_PLATFORM", None)  # mujoco sets it to suit
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
    """Says once what `auto` came to, and what would give OpenGL pictures."""
    if chosen == "ray":
        why = variables.suspects(*_OPENGL)
        _log.info("rendering with ray, without OpenGL; for OpenGL pictures: %s%s", INSTALL["egl"], why)
    else:
        _log.info("rendering with %s", chosen)


def _imported() -> str | None:
    """The backend that dm_control has been imported with; None if it has not been."""
    module = sys.modules.get("dm_control._render")
    return None if module is None else module.BACKEND or "off"
