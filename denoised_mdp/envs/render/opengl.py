"""Pictures through OpenGL, by dm_control's own camera."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names live in a C extension without stubs.

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from dm_control.mujoco import Camera
from PIL import Image

from denoised_mdp.envs.render import MARKER, SKY, Frame, Quality

_SMALL_SHADOWS = 256  # pixels a side of the shadow map: nearly the picture of 2048, at half the cost
_GEOM = int(mujoco.mjtObj.mjOBJ_GEOM)  # as a number: numpy compares slowly with an enum, element by element
_PLAIN = {"shadow": False, "reflection": False}
_FINER = 15 / 8  # scale of a picture to cut and resize: RoboDesk makes 96 pixels from 180 (code)


class OpenGLRenderer:
    """A dm_control Camera, made once: `physics.render` would build a new scene for each frame.

    Quality (cpu ms a frame on llvmpipe, cheetah 64x64): `stock` as the suite draws it (24), `lite` with a small buffer
    and a small shadow map, visually the same (11), `fast` without shadows, reflections and anti-aliasing (0.8).
    """

    def __init__(self, physics: Any, *, camera: int, size: int, quality: Quality, cut: float = 0.0):
        """Args: `cut`: share of the picture cut off at the top (`renderer`)."""
        self._physics, self._size, self._cut = physics, size, cut
        side = round(_FINER * size) if cut else size
        # Plain fields of the model; they are read when the first picture creates the context.
        visual = physics.model.vis
        if quality != "stock":
            visual.global_.offwidth = visual.global_.offheight = side
            visual.quality.shadowsize = _SMALL_SHADOWS
        if quality == "fast":
            visual.quality.offsamples = 0
        self._flags = _PLAIN if quality == "fast" else {}
        self._camera = Camera(physics, side, side, camera)

    def render(self, *, geoms: bool) -> Frame:
        """Renders the current state. The geom ids need a second rendering."""
        # The camera returns a view of its one buffer, hence the copies.
        rgb = self._camera.render(render_flag_overrides=self._flags).copy()
        if self._cut:
            box = (0, self._cut * len(rgb), *rgb.shape[:2])
            resized = Image.fromarray(rgb).resize((self._size, self._size), Image.Resampling.LANCZOS, box)
            rgb = np.array(resized)
        if not geoms:
            return Frame(rgb, np.full(rgb.shape[:2], MARKER, np.int32))
        with self._camera.scene.override_flags(_PLAIN):  # else it would draw the shadows in vain
            ids, kinds = np.moveaxis(self._camera.render(segmentation=True), -1, 0)
        seen = np.where(kinds == _GEOM, ids, MARKER)
        geom = np.where(kinds == -1, SKY, seen).astype(np.int32)
        ticks = (np.arange(self._size) + 0.5) / self._size
        rows, columns = (self._cut + (1 - self._cut) * ticks) * len(geom), ticks * len(geom)
        return Frame(rgb, geom[np.ix_(rows.astype(int), columns.astype(int))])

    def reload(self, texture: int) -> None:
        """Uploads a texture of the model again."""
        contexts = self._physics.contexts
        with contexts.gl.make_current() as thread:
            thread.call(mujoco.mjr_uploadTexture, self._physics.model.ptr, contexts.mujoco.ptr, texture)
