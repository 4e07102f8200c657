"""A flight through shaded discs: edges, occlusion and optic flow as in a video from a moving car.

Layers of discs at different distances come nearer. A layer that has passed the camera starts again in the distance, at
another place. All layers show one texture, a "dead leaves" picture with gaps, sampled from its mip levels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LAYERS = 8
_TEXELS = 512  # a side of the repeating texture
_DISCS = 140
_RADII = 5.0, 80.0  # texels; the number of discs falls as radius^-3, so that all sizes cover the same area
_FAR = 6.0  # distance of the farthest layer; a layer vanishes at distance 1
_TEXELS_PER_PIXEL = 0.8  # at distance 1, of a 64-pixel picture
_PERIOD = 90  # frames from a layer's start to its end
_FADE = 0.15  # share of the way over which a layer fades in, and out
_HAZE = 0.6  # share of contrast that the farthest layer loses
_SWAY, _SWAY_CORRELATION = 6.0, 0.98  # pixels (of 64), slow swing of the view
_LIGHT, _LIGHT_CORRELATION = 0.1, 0.985  # of white, slow change of the whole picture's brightness


def frames(rng: np.random.Generator, count: int, size: int) -> NDArray[np.uint8]:
    """Returns a clip [count, size, size]."""
    levels = _mip_levels(_texture(rng))
    sway = _slow(rng, (count, 2), _SWAY, _SWAY_CORRELATION) * size / 64
    light = _slow(rng, (count, 1), _LIGHT, _LIGHT_CORRELATION)
    sky = np.broadcast_to(np.linspace(0.75, 0.35, size, dtype=np.float32)[:, None], (size, size))
    places = rng.integers(_TEXELS, size=(_LAYERS, count // _PERIOD + 2, 2))  # [layer, round, axis]
    ticks = np.arange(size) + 0.5 - size / 2
    clip = np.empty((count, size, size), np.uint8)
    for t in range(count):
        picture = sky.copy()
        way = t / _PERIOD + np.arange(_LAYERS) / _LAYERS
        for layer in np.argsort(way % 1):  # from far to near
            passed = way[layer] % 1
            distance = _FAR ** (1 - passed)  # constant growth per frame
            step = float(distance * _TEXELS_PER_PIXEL * 64 / size)  # texels from pixel to pixel
            place = places[layer, int(way[layer])]
            rows, columns = (place[axis] + (ticks + sway[t, axis]) * step for axis in (0, 1))
            sample = _sample(levels, rows, columns, step)
            sample *= np.float32(min(1, passed / _FADE, (1 - passed) / _FADE))
            haze = np.float32(_HAZE * (1 - passed))
            picture += sample.real * (1 - haze) + sample.imag * (haze * sky - picture)
        clip[t] = np.clip((picture + light[t]) * 255, 0, 255)
    return clip


def _texture(rng: np.random.Generator) -> NDArray[np.complex64]:
    """Returns discs on a transparent ground, [_TEXELS, _TEXELS]: real part gray level times opacity, imaginary opacity.

    The opacity is 0 or 1. One complex number needs only one look-up for both.
    """
    texture = np.zeros((_TEXELS, _TEXELS), np.complex64)
    small, large = _RADII
    radii = (small**-2 + rng.uniform(size=_DISCS) * (large**-2 - small**-2)) ** -0.5
    for radius in radii:
        reach = int(radius) + 1
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] / radius
        inside = x**2 + y**2 <= 1
        gray = rng.uniform(0.05, 0.95) * (0.8 - 0.25 * (x + y) / 2**0.5)  # lit from the upper left
        rows, columns = (rng.integers(_TEXELS) + np.arange(-reach, reach + 1) for _ in range(2))
        y, x = np.nonzero(inside)
        texture[rows[y] % _TEXELS, columns[x] % _TEXELS] = gray[inside] + 1j
    return texture


def _mip_levels(texture: NDArray[np.complex64]) -> list[NDArray[np.complex64]]:
    levels = [texture]
    while len(levels[-1]) > 32:
        fine = levels[-1]
        levels.append((fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4)
    return levels


def _sample(levels: list[NDArray[np.complex64]], rows: NDArray, columns: NDArray, step: float) -> NDArray[np.complex64]:
    """Returns [H, W], the interpolated texture at texel rows [H] x columns [W]; a pixel covers `step` texels."""
    level = int(np.clip(np.log2(step), 0, len(levels) - 1))
    texture = levels[level]
    width = len(texture)
    (top, down), (left, right) = (np.divmod(w / 2**level - 0.5, 1) for w in (rows, columns))
    down, right = down[:, None].astype(np.float32), right.astype(np.float32)
    top, left = top.astype(np.int64)[:, None], left.astype(np.int64)
    upper, lower = (top % width * width, (top + 1) % width * width)
    first, second = (left % width, (left + 1) % width)
    above, below = (
        (1 - right) * texture.take(row + first) + right * texture.take(row + second) for row in (upper, lower)
    )
    return (1 - down) * above + down * below


def _slow(rng: np.random.Generator, shape: tuple[int, int], stddev: float, correlation: float) -> NDArray[np.float64]:
    """Returns AR(1) processes along the first axis."""
    noise = rng.standard_normal(shape) * stddev
    noise[1:] *= (1 - correlation**2) ** 0.5
    for t in range(1, len(noise)):
        noise[t] += correlation * noise[t - 1]
    return noise
