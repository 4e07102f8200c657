"""Pictures of a simulator: through OpenGL, or without it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.render.backend import Backend

Quality = Literal["stock", "lite", "fast"]
QUALITIES: tuple[Quality, ...] = ("stock", "lite", "fast")

SKY = -1  # in `Frame.geoms`: the ray hit nothing
MARKER = -2  # a site or a tendon: visible, but not a geom


class Frame(NamedTuple):
    """A picture, and the geom at each of its pixels."""

    rgb: NDArray[np.uint8]  # [H, W, 3]
    geoms: NDArray[np.int32]  # [H, W] geom ids, or SKY or MARKER


class Renderer(Protocol):
    """One camera on one simulator."""

    def render(self, *, geoms: bool) -> Frame:
        """Renders the current state; without `geoms`, `Frame.geoms` may be all MARKER, which can be cheaper."""
        ...

    def reload(self, texture: int) -> None:
        """Reloads a texture of the model after a change of its texels."""
        ...


def renderer(backend: Backend, physics: Any, *, camera: int, size: int, quality: Quality, cut: float = 0.0) -> Renderer:
    """Returns a renderer of `physics` (a dm_control Physics), [size, size] pixels; `backend` is from `backend.choose`.

    cut: share of the camera's square view that is cut off at the top; the rest is scaled to the picture.
    """
    if backend == "ray":
        from denoised_mdp.envs.render.ray import RayRenderer

        return RayRenderer(physics, camera=camera, size=size, shadows=quality != "fast", cut=cut)
    from denoised_mdp.envs.render.opengl import OpenGLRenderer  # dm_control: only once MUJOCO_GL is set

    return OpenGLRenderer(physics, camera=camera, size=size, quality=quality, cut=cut)
