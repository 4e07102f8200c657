"""Skins: meshes that bend with a skeleton (the suite's dog), which mujoco's ray caster ignores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.render.texture import PlaneTexture, texels

_POINTS_PER_PIXEL = 12  # of the whole picture
_CENTRE = 0.35  # pixels; farther from its pixel's centre a point is ignored, or edges would grow half a pixel
_TEXTURE_BLUR = 4  # pixels of a picture that the whole texture would fill


class _Points(NamedTuple):
    """P points, evenly spread over a skin."""

    corners: NDArray[np.int64]  # [P, 3], vertices of the triangle that a point lies in
    weights: NDArray[np.float32]  # [P, 3], weights of the corners
    colours: NDArray[np.float32]  # [P, 3], colours of the texture


class Skins:
    """The skins of a model, drawn as enough points to leave no holes."""

    def __init__(self, model: Any, scene: Any, *, size: int, tangent: float):
        """Args: `scene`: an mjvScene that its owner updates; `size`: pixels a side; `tangent`: as for `Overlays`."""
        self._scene, self._size, self._tangent = scene, size, tangent
        self._vertices = [
            slice(start, start + count) for start, count in zip(model.skin_vertadr, model.skin_vertnum, strict=True)
        ]
        self._points = [
            _spread(model, skin, _POINTS_PER_PIXEL * size**2, _TEXTURE_BLUR / size) for skin in range(model.nskin)
        ]

    def hit(self, skin: int, origin: NDArray, rotation: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Returns the visible part of a skin for a camera at `origin` [3] with axes `rotation` [3, 3] (columns).

        Returns: pixels [M], row by row; distances [M]; normals [M, 3]; colours of the texture [M, 3].
        """
        corners, weights, colours = self._points[skin]
        points, normals = (
            np.einsum("pk,pkc->pc", weights, field.reshape(-1, 3)[self._vertices[skin]][corners])
            for field in (self._scene.skinvert, self._scene.skinnormal)
        )
        ray = points - origin
        local = ray @ rotation
        front = np.flatnonzero((local[:, 2] < 0) & (np.einsum("nc,nc->n", ray, normals) < 0))
        place = local[front, :2] / -local[front, 2:] * (1, -1) / self._tangent  # (right, down) in [-1, 1]
        place = (place + 1) / 2 * self._size
        pixel = np.floor(place)
        kept = (np.abs(place - pixel - 0.5) < _CENTRE) & (pixel >= 0) & (pixel < self._size)
        kept = np.flatnonzero(kept.all(-1))
        kept = kept[np.argsort(local[front[kept], 2])]  # the nearest point of a pixel comes last, and is kept
        column, row = pixel[kept].astype(np.int64).T
        nearest = np.full(self._size**2, -1)
        nearest[row * self._size + column] = front[kept]
        pixels = np.flatnonzero(nearest >= 0)
        point = nearest[pixels]
        normal = normals[point] / np.linalg.norm(normals[point], axis=-1, keepdims=True)
        return pixels, np.linalg.norm(ray[point], axis=-1), normal, colours[point]


def _spread(model: Any, skin: int, count: int, blur: float) -> _Points:
    """Spreads `count` points over the triangles in proportion to their area in the rest pose."""
    start, faces = int(model.skin_faceadr[skin]), int(model.skin_facenum[skin])
    triangles = model.skin_face[start : start + faces]
    first = int(model.skin_vertadr[skin])
    a, b, c = (model.skin_vert[first + triangles[:, i]] for i in range(3))
    area = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=-1))
    corners = triangles[np.searchsorted(area, (np.arange(count) + 0.5) / count * area[-1])].astype(np.int64)
    u, v = np.random.default_rng(0).uniform(size=(2, count))
    u, v = np.where(u + v > 1, (1 - u, 1 - v), (u, v))
    weights = np.stack([1 - u - v, u, v], -1).astype(np.float32)
    material, texcoord = int(model.skin_matid[skin]), int(model.skin_texcoordadr[skin])
    texture = int(model.mat_texid[material].max()) if material >= 0 and texcoord >= 0 else -1
    if texture < 0:
        return _Points(corners, weights, np.ones((count, 3), np.float32))
    s, t = np.einsum("pk,pkc->cp", weights, model.skin_texcoord[texcoord + corners])
    return _Points(corners, weights, PlaneTexture(texels(model, texture)).at(s, t, np.full(count, blur)))
