"""Pictures without OpenGL: one ray for each pixel through mujoco's ray caster, shaded with numpy.

It draws the lights, materials, textures, sites, tendons and skins of the model, with the fixed-function lighting of
mujoco's OpenGL renderer, so that the picture has the same content as with OpenGL. It omits reflections, anti-aliasing,
the shadows of skins, and the soft edges of all shadows.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's names live in a C extension without stubs.

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.render import MARKER, Frame
from denoised_mdp.envs.render.overlay import Overlay, Overlays
from denoised_mdp.envs.render.shading import Hits, Light, Surfaces, lights, surfaces
from denoised_mdp.envs.render.texture import CubeTexture, PlaneTexture, texels

_VISIBLE_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # of geoms, by mujoco's default
_HIDDEN_GROUP = 5
_FAR = 1e10  # metres
_SUN_DISTANCE = 1e3  # metres: assumed distance of a light without a position
_FACE_TEXELS = 128  # a side, of a cube texture around a geom
_SHADOW_GAP = 0.01  # metres; an object must be nearer to the light by this much to cast a shadow


class RayRenderer:
    """One camera on one simulator. Its state between pictures depends only on the model and the camera's pose."""

    def __init__(self, physics: Any, *, camera: int, size: int, shadows: bool, cut: float = 0.0):
        """Prepares the geometry of the model.

        Args:
            shadows: whether lights cast shadows, where the model allows it; about twice the work.
            cut: share of the picture cut off at the top (`renderer`).
        """
        self._model, self._data = physics.model.ptr, physics.data.ptr
        self._camera, self._size, self._shadows = camera, size, shadows
        tangent = float(np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2))
        ticks = (np.arange(size) + 0.5) / size
        x, y = np.meshgrid(ticks, cut + (1 - cut) * ticks)  # right and down, in shares of the camera's view
        x, y = (2 * x - 1) * tangent, (1 - 2 * y) * tangent  # a camera looks along its negative third axis
        rays = np.stack([x, y, -np.ones_like(x)], -1).reshape(-1, 3)
        self._camera_rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        self._rotation = np.full((3, 3), np.nan)
        self._pixel = 2 * tangent / size  # width of a pixel at distance 1
        self._pixels = np.arange(size**2)
        assert not (cut and self._model.nskin), "skins are drawn in whole pictures only"
        self._overlays = Overlays(self._model, self._data, camera=camera, size=size, tangent=tangent)
        self._skybox, self._textured, self._textures = _textures(self._model)
        self._roots, self._spheres = _enclosing_spheres(self._model)

    def render(self, *, geoms: bool = True) -> Frame:
        """Renders the current state; the geom ids cost nothing extra."""
        model, size = self._model, self._size
        self._turn()
        overlays = self._overlays.current(self._data.cam_xpos[self._camera], self._rotation, self._rays)
        table = surfaces(model).extended(overlays)
        alpha = table.alpha[: model.ngeom]
        ids, rgb = self._see(self._pixels, table, overlays, hidden=np.flatnonzero(alpha == 0))
        clear = np.flatnonzero((ids >= 0) & (table.alpha[ids] < 1))
        if len(clear):
            _, behind = self._see(clear, table, overlays, hidden=np.flatnonzero(alpha < 1))
            share = 1 - (1 - table.alpha[ids[clear], None]) ** 2  # mujoco draws transparent geoms twice
            rgb[clear] = share * rgb[clear] + (1 - share) * behind
        ids[ids >= model.ngeom] = MARKER
        return Frame(rgb.astype(np.uint8).reshape(size, size, 3), ids.reshape(size, size))

    def reload(self, texture: int) -> None:
        """Reads a texture of the model again."""
        self._textures[texture] = _texture(self._model, texture)

    def _see(
        self, pixels: NDArray[np.int64], table: Surfaces, overlays: list[Overlay], hidden: NDArray
    ) -> tuple[NDArray[np.int32], NDArray[np.floating]]:
        """Returns nearest surfaces [N] of some pixels, -1 for none, and colours [N, 3], 0 to 255; skips `hidden`."""
        model, origin, rays = self._model, self._data.cam_xpos[self._camera], self._rays[pixels]
        with self._castable(hidden):
            ids, distance, normal = self._cast(origin, rays)
            place = np.full(len(self._rays), -1)  # index of each pixel of the picture among `pixels`
            place[pixels] = self._pixels[: len(pixels)]
            for row, overlay in enumerate(overlays, start=model.ngeom):
                here = place[overlay.pixel]
                nearer = (here >= 0) & ((ids[here] < 0) | (overlay.distance < distance[here]))
                here = here[nearer]
                ids[here], distance[here], normal[here] = row, overlay.distance[nearer], overlay.normal[nearer]
            seen = np.flatnonzero(ids >= 0)
            ray = rays[seen]
            hits = Hits(
                surface=ids[seen],
                ray=ray.astype(np.float32),
                distance=distance[seen].astype(np.float32),
                point=(origin + distance[seen, None] * ray).astype(np.float32),
                normal=normal[seen].astype(np.float32),
            )
            light = self._light(hits, table)
        rgb = self._sky[pixels]
        rgb[seen] = np.minimum(light * self._texture(hits, pixels[seen], overlays), 1) * 255
        return ids, rgb

    def _turn(self) -> None:
        """Updates rays and sky if the camera's orientation has changed since the last picture."""
        rotation = self._data.cam_xmat[self._camera].reshape(3, 3)
        if (rotation == self._rotation).all():
            return
        self._rotation = rotation.copy()
        self._rays = self._camera_rays @ rotation.T
        self._sky = (
            np.zeros(self._rays.shape, np.float32) if self._skybox is None else self._skybox.at(self._rays) * 255
        )

    @contextmanager
    def _castable(self, hidden: NDArray) -> Iterator[None]:
        """Makes the model's bounding volumes right for rays, and `hidden` geoms invisible, inside the context."""
        model = self._model
        boxes, groups = model.bvh_aabb[self._roots], model.geom_group[hidden]
        model.bvh_aabb[self._roots], model.geom_group[hidden] = self._spheres, _HIDDEN_GROUP
        try:
            yield
        finally:
            model.bvh_aabb[self._roots], model.geom_group[hidden] = boxes, groups

    def _cast(self, origin: NDArray, rays: NDArray) -> tuple[NDArray[np.int32], NDArray, NDArray]:
        """Returns geom ids [N], -1 for none; distances [N], in lengths of the rays; normals [N, 3]."""
        count = len(rays)
        ids, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty((count, 3))
        mujoco.mj_multiRay(
            self._model, self._data, origin, rays.reshape(-1), _VISIBLE_GROUPS, True, -1,
            ids, distance, normal.reshape(-1), count, _FAR,
        )  # fmt: skip
        return ids, distance, normal

    def _light(self, hits: Hits, table: Surfaces) -> NDArray[np.floating]:
        """Returns the light that the surfaces reflect, [N, 3], before their textures.

        OpenGL clips the sum of the lights to 1. Lights that cast shadows are added in separate passes, each clipped by
        itself; without shadows all are in the one sum, which makes textured floors darker.
        """
        rgb = table.rgb[hits.surface]
        total = rgb * table.emission[hits.surface, None]
        passes = []
        for lamp in lights(self._model, self._data, self._camera):
            shine = lamp.shine(hits, rgb, table.specular[hits.surface], table.exponent[hits.surface])
            if self._shadows and lamp.casts_shadow:
                passes.append(np.minimum(shine, 1) * self._lit(lamp, hits)[:, None])
            else:
                total += shine
        return np.minimum(total, 1) + sum(passes)

    def _lit(self, lamp: Light, hits: Hits) -> NDArray[np.bool_]:
        """Checks for each of N hits whether the light reaches it."""
        source = lamp.position
        if source is None:
            source = self._model.stat.center - _SUN_DISTANCE * lamp.direction
        rays = hits.point - source
        _, distance, _ = self._cast(source, rays)
        return (distance < 0) | ((1 - distance) * np.linalg.norm(rays, axis=-1) < _SHADOW_GAP)

    def _texture(self, hits: Hits, pixel: NDArray, overlays: list[Overlay]) -> NDArray[np.float32]:
        """Returns the factors [N, 3] by which textures multiply the light of N hits; `pixel` [N] are their pixels."""
        colours = np.ones((len(hits.surface), 3), np.float32)
        for row, overlay in enumerate(overlays, start=self._model.ngeom):
            if overlay.texture is not None:
                here = np.flatnonzero(hits.surface == row)
                colours[here] = overlay.texture[np.searchsorted(overlay.pixel, pixel[here])]
        for geom, number in self._textured.items():
            here = np.flatnonzero(hits.surface == geom)
            if len(here) == 0:
                continue
            texture = self._textures[number]
            axes = self._data.geom_xmat[geom].reshape(3, 3).astype(np.float32)
            local = (hits.point[here] - self._data.geom_xpos[geom].astype(np.float32)) @ axes
            material = self._model.geom_matid[geom]
            extent, uniform = self._model.geom_size[geom].astype(np.float32), self._model.mat_texuniform[material]
            if isinstance(texture, CubeTexture):
                if self._model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX and not uniform:
                    normal = hits.normal[here] @ axes  # gives the face, even if the box is too thin for the point to
                    local = np.where(np.abs(normal) > 0.5, np.sign(normal), local / extent)
                colours[here] = texture.on(local)
                continue
            size, repeat = extent[:2], self._model.mat_texrepeat[material]
            if not uniform:
                repeat = repeat / size
            # Textures start in a corner, and their rows go down.
            u, v = ((size + local[:, :2] * np.array([1, -1], np.float32)) * repeat / 2).T
            slant = np.abs(np.einsum("nc,nc->n", hits.normal[here], hits.ray[here]))
            footprint = hits.distance[here] * self._pixel * repeat.max() / 2 / np.maximum(slant, 1e-3)
            colours[here] = texture.at(u, v, footprint)
        return colours


def _textures(model: Any) -> tuple[CubeTexture | None, dict[int, int], dict[int, PlaneTexture | CubeTexture]]:
    """Returns the skybox, the texture number of every textured geom, and these textures by number."""
    skyboxes = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    skybox = CubeTexture(texels(model, skyboxes[0])) if len(skyboxes) else None
    of_geoms = {}
    for geom in np.flatnonzero(model.geom_matid >= 0):
        texture = int(model.mat_texid[model.geom_matid[geom], mujoco.mjtTextureRole.mjTEXROLE_RGB])
        if texture >= 0:
            of_geoms[int(geom)] = texture
    return skybox, of_geoms, {texture: _texture(model, texture) for texture in sorted(set(of_geoms.values()))}


def _texture(model: Any, texture: int) -> PlaneTexture | CubeTexture:
    flat = model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_2D
    return PlaneTexture(texels(model, texture)) if flat else CubeTexture(texels(model, texture), _FACE_TEXELS)


def _enclosing_spheres(model: Any) -> tuple[NDArray[np.int32], NDArray]:
    """Returns for every body the root [R] of its bounding volumes, and a row [R, 6] to put there while casting rays.

    mj_multiRay skips a body if a ray misses the sphere around that root box. But it does not turn the box's centre with
    the body (mujoco 3.17), and the box excludes geoms that do not collide, so parts of the body would be missing.
    These spheres, written as boxes around the body's centre of mass, are right in any orientation. They replace the
    boxes only during the cast, as the collision detection uses the boxes too.
    """
    bodies = np.flatnonzero(model.body_bvhadr >= 0)
    reach = np.linalg.norm(model.geom_pos - model.body_ipos[model.geom_bodyid], axis=-1) + model.geom_rbound
    reach[model.geom_rbound == 0] = _FAR  # planes have no bound
    spheres = np.zeros((len(bodies), 6))
    spheres[:, 3] = [reach[model.geom_bodyid == body].max(initial=0) for body in bodies]
    return model.body_bvhadr[bodies], spheres
