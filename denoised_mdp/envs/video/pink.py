"""Moving pink noise: the power spectrum of natural pictures, 1/k^2, without their objects and edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CORRELATION = 0.9  # of a Fourier mode with itself in the next frame
_DRIFT = 0.3  # pixels per frame (of a 64-pixel picture), motion of the whole picture
_MEAN, _STDDEV = 0.47, 0.19  # of the gray levels, in [0, 1]


def frames(rng: np.random.Generator, count: int, size: int) -> NDArray[np.uint8]:
    """Returns a clip [count, size, size]: each Fourier mode is an AR(1) of amplitude 1/k, and all drift together."""
    ky, kx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    k = np.hypot(kx, ky)
    amplitude = np.divide(1, k, where=k > 0, out=np.zeros_like(k))
    # irfft2 counts the columns 0 < kx < 1/2 twice, for their conjugates, and takes the real part of the others.
    share = np.where((kx > 0) & (kx < 0.5), 4, 1)
    amplitude *= _STDDEV * size**2 / np.sqrt((share * amplitude**2).sum())
    angle = rng.uniform(0, 2 * np.pi)
    drift = _DRIFT * size / 64 * (kx * np.cos(angle) + ky * np.sin(angle))
    turn = (_CORRELATION * np.exp(-2j * np.pi * drift)).astype(np.complex64)
    innovation = (amplitude * (1 - _CORRELATION**2) ** 0.5).astype(np.float32)

    def noise() -> NDArray[np.complex64]:
        return rng.standard_normal((*k.shape, 2), np.float32).view(np.complex64)[..., 0]

    modes = amplitude.astype(np.float32) * noise()
    clip = np.empty((count, size, size), np.uint8)
    for t in range(count):
        clip[t] = np.clip((_MEAN + np.fft.irfft2(modes, (size, size))) * 255, 0, 255)
        modes = turn * modes + innovation * noise()
    return clip
