"""The fixed-function lighting of mujoco's OpenGL renderer, one pixel at a time, in numpy."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names live in a C extension without stubs.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.render.overlay import Overlay

_UNSET_RGBA = np.array([0.5, 0.5, 0.5, 1], np.float32)  # a geom with this colour shows its material's colour
_EXPONENT = 128  # OpenGL's specular exponent for shininess 1
_CONSTANT = np.array([1, 0, 0], np.float32)  # no attenuation
_PLAIN = (0.0, 0.5, 0.5)  # emission, specular and shininess without a material


class Hits(NamedTuple):
    """The points where N rays of one camera meet surfaces."""

    surface: NDArray[np.int32]  # [N], a row of Surfaces
    ray: NDArray[np.float32]  # [N, 3], from the camera, unit length
    distance: NDArray[np.float32]  # [N]
    point: NDArray[np.float32]  # [N, 3]
    normal: NDArray[np.float32]  # [N, 3], outward, unit length


class Surfaces(NamedTuple):
    """Material properties, one row per object: the geoms of a model, by id, then its overlays."""

    rgb: NDArray[np.float32]  # [S, 3]
    alpha: NDArray[np.float32]  # [S]
    emission: NDArray[np.float32]  # [S]
    specular: NDArray[np.float32]  # [S]
    exponent: NDArray[np.float32]  # [S]

    def extended(self, overlays: Sequence[Overlay]) -> Surfaces:
        """Returns a copy with a row for each overlay after the geoms."""
        if not overlays:
            return self
        rgb = np.stack([overlay.rgb for overlay in overlays])
        rest = np.array([(1, o.emission, o.specular, _EXPONENT * o.shininess) for o in overlays], np.float32)
        return Surfaces(np.concatenate([self.rgb, rgb]), *map(np.concatenate, zip(self[1:], rest.T, strict=True)))


class Light(NamedTuple):
    """A light, shining from a point or, if `position` is None, from far away."""

    position: NDArray | None  # [3]
    direction: NDArray  # [3], direction of its rays
    ambient: NDArray[np.float32]  # [3]
    diffuse: NDArray[np.float32]  # [3]
    specular: NDArray[np.float32]  # [3]
    attenuation: NDArray[np.float32]  # [3]: constant, linear, quadratic
    cutoff: float  # degrees; 180: not a spotlight
    exponent: float
    casts_shadow: bool

    def shine(self, hits: Hits, rgb: NDArray, specular: NDArray, exponent: NDArray) -> NDArray[np.floating]:
        """Returns the light that each of N hits reflects, [N, 3].

        Args:
            hits: N of them.
            rgb: [N, 3], colours of the surfaces.
            specular: [N], strength of their specular reflection.
            exponent: [N], its sharpness.
        """
        if self.position is None:
            to_light = -self.direction.astype(np.float32)
            facing = hits.normal @ to_light
            strength = np.ones((), np.float32)
        else:
            to_light = self.position.astype(np.float32) - hits.point
            length = np.sqrt(np.einsum("nc,nc->n", to_light, to_light))
            to_light /= length[:, None]
            facing = np.einsum("nc,nc->n", hits.normal, to_light)
            constant, linear, quadratic = self.attenuation
            strength = 1 / (constant + linear * length + quadratic * length**2)
            if self.cutoff < 180:
                cosine = -(to_light @ self.direction.astype(np.float32))
                inside = cosine >= np.float32(np.cos(np.deg2rad(self.cutoff)))
                strength *= np.where(inside, cosine, 0) ** np.float32(self.exponent)
        half = to_light - hits.ray
        length = np.sqrt(np.einsum("nc,nc->n", half, half))
        gloss = np.einsum("nc,nc->n", hits.normal, half) / np.maximum(length, 1e-6)
        matte = np.maximum(facing, 0) * strength
        glossy = np.where((facing > 0) & (gloss > 0), gloss, 0) ** exponent * specular * strength
        return rgb * (self.ambient + matte[:, None] * self.diffuse) + glossy[:, None] * self.specular


def lights(model: Any, data: Any, camera: int) -> list[Light]:
    """Returns the headlight of a camera, then the lights of the model at their current positions."""
    found = []
    if model.vis.headlight.active:
        head = model.vis.headlight
        forward = -data.cam_xmat[camera].reshape(3, 3)[:, 2]
        found.append(Light(None, forward, head.ambient, head.diffuse, head.specular, _CONSTANT, 180.0, 0.0, False))
    for i in np.flatnonzero(model.light_active):
        directional = model.light_type[i] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        found.append(
            Light(
                None if directional else data.light_xpos[i],
                data.light_xdir[i],
                model.light_ambient[i],
                model.light_diffuse[i],
                model.light_specular[i],
                model.light_attenuation[i],
                float(model.light_cutoff[i]),
                float(model.light_exponent[i]),
                bool(model.light_castshadow[i]),
            )
        )
    return found


def surfaces(model: Any) -> Surfaces:
    """Returns the current materials of a model's geoms: tasks change colours during an episode."""
    material = model.geom_matid  # -1 means none: the last row below
    fields = (model.mat_emission, model.mat_specular, model.mat_shininess)
    emission, specular, shininess = (
        np.append(field, np.float32(plain))[material] for field, plain in zip(fields, _PLAIN, strict=True)
    )
    of_materials = np.concatenate([model.mat_rgba, _UNSET_RGBA[None]])[material]
    unset = (model.geom_rgba == _UNSET_RGBA).all(-1)
    rgba = np.where(unset[:, None], of_materials, model.geom_rgba)
    return Surfaces(rgba[:, :3], rgba[:, 3], emission, specular, shininess * _EXPONENT)
