"""Sites, tendons and skins: visible in a picture besides geoms, but ignored by mujoco's ray caster."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names live in a C extension without stubs.

from __future__ import annotations

from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.render import shape
from denoised_mdp.envs.render.skin import Skins

_DRAWN = (int(mujoco.mjtObj.mjOBJ_SITE), int(mujoco.mjtObj.mjOBJ_TENDON))


class Overlay(NamedTuple):
    """One object that covers M pixels where nothing is nearer, and its material."""

    pixel: NDArray[np.int64]  # [M], row by row
    distance: NDArray  # [M]
    normal: NDArray  # [M, 3]
    texture: NDArray[np.float32] | None  # [M, 3], factors of the light
    rgb: NDArray[np.float32]  # [3]
    emission: float
    specular: float
    shininess: float


class Overlays:
    """Reads the overlays from mujoco's abstract scene, which needs no OpenGL and lists the visible ones."""

    def __init__(self, model: Any, data: Any, *, camera: int, size: int, tangent: float):
        """Args: `size`: pixels a side; `tangent`: tangent of half the angle of view."""
        self._model, self._data = model, data
        self._pixel = 2 * tangent / size
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 100 * (model.ntendon + 1))
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        self._skins = Skins(model, self._scene, size=size, tangent=tangent)
        self._any = bool(model.nsite or model.nwrap or model.nskin)  # tendons along joints have no wraps in space

    def current(self, origin: NDArray, rotation: NDArray, rays: NDArray) -> list[Overlay]:
        """Returns the current overlays for a camera at `origin` [3] with axes `rotation` [3, 3] and its unit `rays`."""
        if not self._any:
            return []
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, self._data, self._option, None, self._camera, everything, self._scene)
        found = []
        for item in self._scene.geoms[: self._scene.ngeom]:
            material = item.rgba[:3], item.emission, item.specular, item.shininess
            if item.type == mujoco.mjtGeom.mjGEOM_SKIN:
                found.append(Overlay(*self._skins.hit(item.objid, origin, rotation), *material))
            elif item.objtype in _DRAWN and item.type in shape.SHAPES and item.rgba[3] > 0:
                size, position, axes = (np.array(field, np.float64) for field in (item.size, item.pos, item.mat))
                met = shape.meet(item.type, size, position, axes, origin, rays, self._pixel)
                found.append(Overlay(*met, None, *material))
        return found
