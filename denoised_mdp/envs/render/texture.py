"""The textures of a model, sampled as in OpenGL: at the resolution that fits the area of a pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLANE_TEXELS = 256  # a power of two, so that halving it gives the mip levels
_SKY_TEXELS = 100  # a face of the cube spans 90 degrees, a picture of 64 pixels spans 45


class PlaneTexture:
    """A repeating 2-D texture and its mip levels: each has half the side of the one before, down to one mean colour."""

    def __init__(self, texels: NDArray[np.uint8]):
        """Args: `texels` [H, W, 3]."""
        level = _resized(texels, _PLANE_TEXELS, _PLANE_TEXELS) / 255
        levels = [level]
        while len(level) > 1:
            level = (level[::2, ::2] + level[1::2, ::2] + level[::2, 1::2] + level[1::2, 1::2]) / 4
            levels.append(level)
        self._widths = np.array([len(level) for level in levels], np.int32)
        self._offsets = np.cumsum([0, *(self._widths[:-1] ** 2)]).astype(np.int32)
        self._texels = np.concatenate([level.reshape(-1, 3) for level in levels]).astype(np.float32)

    def at(self, u: NDArray, v: NDArray, footprint: NDArray) -> NDArray[np.floating]:
        """Returns colours [N, 3] at (u, v) [N], in units of the texture; a pixel covers `footprint` [N] of it."""
        level = np.log2(np.maximum(footprint * _PLANE_TEXELS, 1)).astype(np.int32)
        level = np.minimum(level, len(self._widths) - 1)
        width, offset = self._widths[level], self._offsets[level]
        column, row = ((w - np.floor(w)).astype(np.float32) * width - np.float32(0.5) for w in (u, v))
        left, top = np.floor(column), np.floor(row)
        right, down = (column - left)[:, None], (row - top)[:, None]  # shares of the next column and row
        columns = [(left.astype(np.int32) + i) & (width - 1) for i in (0, 1)]  # the texture repeats
        rows = [offset + ((top.astype(np.int32) + i) & (width - 1)) * width for i in (0, 1)]
        texels = self._texels
        above, below = ((1 - right) * texels[r + columns[0]] + right * texels[r + columns[1]] for r in rows)
        return (1 - down) * above + down * below


class CubeTexture:
    """Six faces around a centre: a skybox, or the skin of a ball."""

    def __init__(self, texels: NDArray[np.uint8], most: int = _SKY_TEXELS):
        """Makes the mip levels of each face.

        Args:
            texels: [6 * W, W, 3], right, left, up, down, front, back; or [W, W, 3] for all six.
            most: the most texels a side of each face.
        """
        side = texels.shape[1]
        self._side = min(side, most)
        faces = [_resized(face, self._side, self._side) for face in texels.reshape(-1, side, side, 3)]
        self._faces = np.broadcast_to(np.stack(faces).astype(np.float32) / 255, (6, self._side, self._side, 3))

    def at(self, directions: NDArray) -> NDArray[np.floating]:
        """Returns colours [N, 3] of a skybox in directions [N, 3] of any length, z up."""
        # OpenGL's cube has y up.
        face, row, column = self._place(np.stack([directions[:, 0], directions[:, 2], -directions[:, 1]], -1))
        row, column = (np.minimum(w.astype(np.int64), self._side - 1) for w in (row, column))
        return self._faces[face, row, column]

    def on(self, points: NDArray) -> NDArray[np.floating]:
        """Returns interpolated colours [N, 3] of a geom at points [N, 3], relative to its centre and along its axes."""
        face, *place = self._place(points)
        row, column = (np.clip(w.astype(np.float32) - np.float32(0.5), 0, self._side - 1) for w in place)
        top, left = row.astype(np.int64), column.astype(np.int64)
        down, right = (row - top)[:, None], (column - left)[:, None]  # shares of the next row and column
        bottom, beside = (np.minimum(w + 1, self._side - 1) for w in (top, left))
        above, below = (
            (1 - right) * self._faces[face, w, left] + right * self._faces[face, w, beside] for w in (top, bottom)
        )
        return (1 - down) * above + down * below

    def _place(self, points: NDArray) -> tuple[NDArray[np.int64], NDArray, NDArray]:
        """Returns OpenGL's face, row and column [N] (texels from a corner) for directions [N, 3] of its cube."""
        x, y, z = points.T
        sizes = np.abs(np.stack([x, y, z]))
        axis = np.argmax(sizes, 0)
        size = np.take_along_axis(sizes, axis[None], 0)[0]
        positive = np.choose(axis, [x, y, z]) > 0
        sign = np.where(positive, 1.0, -1.0)
        s = np.choose(axis, [-sign * z, x, sign * x]) / size
        t = np.choose(axis, [-y, sign * z, -y]) / size
        column, row = ((w + 1) / 2 * self._side for w in (s, t))
        return 2 * axis + ~positive, row, column


def texels(model: Any, texture: int) -> NDArray[np.uint8]:
    """Returns texture number `texture` of a mujoco model, [H, W, 3]."""
    height, width, channels = (int(field[texture]) for field in (model.tex_height, model.tex_width, model.tex_nchannel))
    start = int(model.tex_adr[texture])
    return model.tex_data[start : start + height * width * channels].reshape(height, width, channels)[..., :3]


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.floating]:
    """Returns the mean colour of the texels in each new one; [H, W, 3] to [height, width, 3]."""
    resized = image.astype(np.float32)
    for axis, count in ((0, height), (1, width)):
        edges = np.arange(count + 1) * resized.shape[axis] // count
        texels = np.maximum(np.diff(edges), 1).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        resized = np.add.reduceat(resized, edges[:-1], axis) / texels.astype(np.float32)
    return resized
