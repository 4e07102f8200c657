"""Strided convolutions and transposed convolutions without padding, in the form that is fastest on the device.

A GPU runs the plain operations, except for transposed convolutions of few colours or of single points: on an H100 these
take 1.5 to 4.5 times as long as matrix products (docs/performance.md). XLA's CPU backend takes fifty times as long for
the gradient of a strided convolution with respect to its kernel as for a matrix product of the same arithmetic, so on a
CPU every layer is a matrix product: a convolution of the `patches` of a picture, a transposed one of pieces whose
`overlap` is the picture. `patches` and `overlap` are transposes of each other. A layer processes a few pictures of the
batch at a time, so their patches stay in the cache.

The products have the precision of the pictures; kernels, biases and their gradients are float32.
Shapes: N = pictures, H W = their height and width, C = channels in, O = channels out, k = kernel, s = stride.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
FEW_COLOURS = 6  # the number that TIA's decoders output
CACHE_BYTES = 4 * 2**20  # of the patches that are in use at a time


def conv(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, *, relu: bool) -> jax.Array:
    """[N, H, W, C], [k, k, C, O], [O] -> [N, (H - k) // s + 1, (W - k) // s + 1, O]."""
    if not _on_cpu():
        return plain_conv(images, kernel, bias, stride, relu=relu)
    return product_conv(images, kernel, bias, stride, relu=relu)


def conv_transpose(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, *, relu: bool) -> jax.Array:
    """[N, H, W, C], [k, k, C, O], [O] -> [N, s (H - 1) + k, s (W - 1) + k, O]: the kernel is not flipped, as in lax."""
    few_colours, points = kernel.shape[-1] <= FEW_COLOURS, images.shape[1:3] == (1, 1)
    if not (_on_cpu() or few_colours or points):
        return plain_conv_transpose(images, kernel, bias, stride, relu=relu)
    return product_conv_transpose(images, kernel, bias, stride, relu=relu)


def product_conv(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, *, relu: bool) -> jax.Array:
    """`conv` as matrix products of patches."""
    return _conv(images, kernel.reshape(-1, kernel.shape[-1]).T, bias, kernel.shape[0], stride, relu)


def product_conv_transpose(
    images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, *, relu: bool
) -> jax.Array:
    """`conv_transpose` as matrix products whose pieces overlap."""
    turned = kernel[::-1, ::-1].transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)  # what each input adds
    return _conv_transpose(images, turned, bias, kernel.shape[0], stride, relu)


def plain_conv(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, *, relu: bool) -> jax.Array:
    """`conv` as one operation."""
    strides = (stride, stride)
    kernel = kernel.astype(images.dtype)
    outputs = jax.lax.conv_general_dilated(images, kernel, strides, "VALID", dimension_numbers=DIMENSIONS)
    return _activated(outputs, bias, relu, images.dtype)


def plain_conv_transpose(
    images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, *, relu: bool
) -> jax.Array:
    """`conv_transpose` as one operation."""
    strides = (stride, stride)
    kernel = kernel.astype(images.dtype)
    outputs = jax.lax.conv_transpose(images, kernel, strides, "VALID", dimension_numbers=DIMENSIONS)
    return _activated(outputs, bias, relu, images.dtype)


def patches(images: jax.Array, kernel: int, stride: int) -> jax.Array:
    """[N, H, W, C] -> [N h w, k k C]: the inputs of a convolution at each of its h x w places.

    Copies the pixels of each place within a row first, then stacks the rows: both copy long runs of memory. The
    barriers keep XLA from fusing both copies, and the producer of the images, into one loop over single numbers.
    """
    count, height, width, channels = images.shape
    h, w = (_places(side, kernel, stride) for side in (height, width))
    steps = -(-kernel // stride)  # strides in a kernel, rounded up
    missing = max(0, stride * (w + steps - 1) - width)
    rows = jnp.pad(images, ((0, 0), (0, 0), (0, missing), (0, 0)))[:, :, : stride * (w + steps - 1)]
    rows = jax.lax.optimization_barrier(rows).reshape(count, height, w + steps - 1, stride * channels)
    seen = [rows[:, :, j : j + w, : (kernel - stride * j) * channels] for j in range(steps)]
    rows = jax.lax.optimization_barrier(jnp.concatenate(seen, axis=-1))
    seen = [rows[:, i : i + stride * (h - 1) + 1 : stride] for i in range(kernel)]
    return jnp.concatenate(seen, axis=-1).reshape(count * h * w, kernel * kernel * channels)


def overlap(pieces: jax.Array, stride: int) -> jax.Array:
    """[N, h, w, k, k, C] -> [N, s (h - 1) + k, s (w - 1) + k, C]: the sum of pieces that are placed a stride apart.

    Pixels whose coordinates have the same remainders after division by the stride form one small picture; the same
    places of all pieces contribute to it. These pictures are summed one by one and then interlaced.
    """
    count, h, w, kernel, _, channels = pieces.shape
    if h == w == 1:
        return pieces.reshape(count, kernel, kernel, channels)
    extra = -(-kernel // stride) - 1
    phases = []
    for i in range(stride):
        for j in range(stride):
            shifted = [
                jnp.pad(
                    pieces[:, :, :, i + stride * a, j + stride * b],
                    ((0, 0), (a, extra - a), (b, extra - b), (0, 0)),
                )
                for a in range(-(-(kernel - i) // stride))
                for b in range(-(-(kernel - j) // stride))
            ]
            phases.append(functools.reduce(jnp.add, shifted))
    height, width = h + extra, w + extra
    stacked = jnp.concatenate(phases, axis=-1).reshape(count, height, width, stride, stride, channels)
    images = stacked.swapaxes(2, 3).reshape(count, stride * height, stride * width, channels)
    return images[:, : stride * (h - 1) + kernel, : stride * (w - 1) + kernel]


def _saving(layer: Callable) -> Callable:
    """Returns `layer` as its gradient needs it: with what the backward pass takes, beside the outputs."""

    def forward(images, matrix, bias, size, stride, relu):
        outputs = layer(images, matrix, bias, size, stride, relu)
        return outputs, (images, matrix, outputs)

    return forward


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _conv(images, matrix, bias, size, stride, relu):
    """matrix: [O, k k C]."""
    h, w = (_places(side, size, stride) for side in images.shape[1:3])
    matrix = matrix.astype(images.dtype)

    def layer(_, images):
        outputs = _product(patches(images, size, stride), matrix.T)
        return (), _activated(outputs.reshape(-1, h, w, len(bias)), bias, relu, images.dtype)

    return _in_chunks(layer, (), images, images_bytes=4 * h * w * matrix.shape[1])[1]


def _conv_backward(size, stride, relu, saved, gradient):
    """Computes the patches again: keeping them would take four times the memory of the images."""
    images, matrix, outputs = saved
    h, w, channels = gradient.shape[1:]
    nothing = (jnp.zeros_like(matrix), jnp.zeros(channels, matrix.dtype))
    matrix = matrix.astype(images.dtype)

    def layer(total, chunk):
        images, outputs, gradient = chunk
        flat = _before_activation(outputs, gradient, relu).reshape(-1, channels)
        pieces = _product(flat, matrix).reshape(-1, h, w, size, size, images.shape[-1])
        seen = overlap(pieces, stride).astype(images.dtype)
        unseen = [(0, whole - part) for whole, part in zip(images.shape, seen.shape, strict=True)]
        found = (_product(flat.T, patches(images, size, stride)), jnp.sum(flat, axis=0, dtype=jnp.float32))
        return jax.tree.map(jnp.add, total, found), jnp.pad(seen, unseen)

    images_bytes = 4 * h * w * matrix.shape[1]
    total, to_images = _in_chunks(layer, nothing, (images, outputs, gradient), images_bytes=images_bytes)
    return to_images, *total


_conv.defvjp(_saving(_conv), _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _conv_transpose(images, matrix, bias, size, stride, relu):
    """matrix: [C, k k O]."""
    h, w, channels = images.shape[1:]
    matrix = matrix.astype(images.dtype)

    def layer(_, images):
        pieces = _product(images.reshape(-1, channels), matrix)
        outputs = overlap(pieces.reshape(-1, h, w, size, size, len(bias)), stride)
        return (), _activated(outputs, bias, relu, images.dtype)

    return _in_chunks(layer, (), images, images_bytes=4 * h * w * matrix.shape[1])[1]


def _conv_transpose_backward(size, stride, relu, saved, gradient):
    images, matrix, outputs = saved
    h, w, channels = images.shape[1:]
    nothing = (jnp.zeros_like(matrix), jnp.zeros(gradient.shape[-1], matrix.dtype))
    matrix = matrix.astype(images.dtype)

    def layer(total, chunk):
        images, outputs, gradient = chunk
        gradient = _before_activation(outputs, gradient, relu)
        pieces = patches(gradient, size, stride)
        to_matrix = _product(images.reshape(-1, channels).T, pieces)
        found = (to_matrix, jnp.sum(gradient, axis=(0, 1, 2), dtype=jnp.float32))
        to_images = _product(pieces, matrix.T).astype(images.dtype).reshape(images.shape)
        return jax.tree.map(jnp.add, total, found), to_images

    images_bytes = 4 * h * w * matrix.shape[1]
    total, to_images = _in_chunks(layer, nothing, (images, outputs, gradient), images_bytes=images_bytes)
    return to_images, *total


_conv_transpose.defvjp(_saving(_conv_transpose), _conv_transpose_backward)


def _in_chunks(layer: Callable, total: Any, arrays: Any, *, images_bytes: int) -> tuple[Any, jax.Array]:
    """Scans `layer` over the pictures of `arrays`, in chunks whose patches fit the cache.

    layer: (total, a chunk of the arrays) -> (total, outputs); images_bytes: size of the patches of one picture. Zeros
    pad the last chunk; they add nothing to any total of gradients.
    """
    count = jax.tree.leaves(arrays)[0].shape[0]
    chunk = min(count, max(1, CACHE_BYTES // images_bytes)) if _on_cpu() else count
    divisor = max(n for n in range(1, chunk + 1) if count % n == 0)
    chunk = divisor if 2 * divisor >= chunk else chunk
    if chunk == count:
        return layer(total, arrays)
    chunks = -(-count // chunk)
    missing = chunks * chunk - count

    def cut(array: jax.Array) -> jax.Array:
        padded = jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else array
        return padded.reshape(chunks, chunk, *array.shape[1:])

    total, outputs = jax.lax.scan(layer, total, jax.tree.map(cut, arrays))
    return total, outputs.reshape(chunks * chunk, *outputs.shape[2:])[:count]


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _activated(outputs: jax.Array, bias: jax.Array, relu: bool, dtype: jnp.dtype) -> jax.Array:
    outputs = outputs + bias[None, None, None]
    return (jax.nn.relu(outputs) if relu else outputs).astype(dtype)


def _before_activation(outputs: jax.Array, gradient: jax.Array, relu: bool) -> jax.Array:
    return jnp.where(outputs > 0, gradient, 0) if relu else gradient


def _places(side: int, kernel: int, stride: int) -> int:
    return (side - kernel) // stride + 1


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"
