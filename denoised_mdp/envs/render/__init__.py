"""Pictures of a simulator: through OpenGL, or without it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.render.backend import Backend

Quality = Literal["stock", "lite", "fast"]
QUALITIES: tuple[Quality, ...] = ("stock", "lite", "fast")

SKY = -1  # in `Frame.geoms`: nothing was hit
MARKER = -2  # a site or a tendon: drawn, but not a geom


class Frame(NamedTuple):
    """A picture with what is seen at each pixel."""

    rgb: NDArray[np.uint8]  # [H, W, 3]
    geoms: NDArray[np.int32]  # [H, W] geom ids, or SKY or MARKER


class Renderer(Protocol):
    """One camera on one simulator."""

    def render(self, *, geoms: bool) -> Frame:
        """The current state; without `geoms` a renderer may leave `Frame.geoms` all MARKER, which can be cheaper."""
        ...

    def reload(self, texture: int) -> None:
        """Takes up the texels of a texture of the model that have changed."""
        ...


def renderer(backend: Backend, physics: Any, *, camera: int, size: int, quality: Quality, cut: float = 0.0) -> Renderer:
    """A renderer of `physics` (a dm_control Physics), [size, size] pixels, by a chosen backend (`backend.choose`).

    cut: share of the square that the camera sees that is left out at the top; the rest is squeezed to the picture.
    """
    if backend == "ray":
        from denoised_mdp.envs.render.ray import RayRenderer

        return RayRenderer(physics, camera=camera, size=size, shadows=quality != "fast", cut=cut)
    from denoised_mdp.envs.render.opengl import OpenGLRenderer  # dm_control: only once MUJOCO_GL is set

    return OpenGLRenderer(physics, camera=camera, size=size, quality=quality, cut=cut)
