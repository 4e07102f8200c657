"""Networks as parameters plus methods, with the reference's initialisation.

Everything dense or convolutional starts uniform in +-1/sqrt(fan_in), weights and biases alike, and a GRU in
+-1/sqrt(hidden), as the reference (PyTorch) does. Widths of zero are allowed and give empty arrays.

Shapes: B = any leading axes; images are [B, H, W, 3], float, centred on zero.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from denoised_mdp.model.convolutions import conv, conv_transpose
from denoised_mdp.model.distributions import Categorical, Normal, StateDistribution
from denoised_mdp.model.sharding import spread

Initializer = Callable[..., jax.Array]


def uniform(fan_in: int) -> Initializer:
    """Returns an initializer uniform in +-1/sqrt(fan_in); a network without inputs starts at zero."""
    bound = fan_in**-0.5 if fan_in else 0.0

    def init(key: jax.Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def product(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    """Returns a @ b of float32 matrices in float32; precision=bfloat16 rounds the factors, in the gradients too."""
    return a @ b if precision == "float32" else _rounded_product(a, b, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rounded_product(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    return jnp.matmul(a.astype(precision), b.astype(precision), preferred_element_type=jnp.float32)


def _rounded_product_forward(a, b, precision):
    a, b = a.astype(precision), b.astype(precision)
    return _rounded_product(a, b, precision), (a, b)


def _rounded_product_backward(precision, saved, gradient):
    a, b = saved
    return _rounded_product(gradient, b.T, precision), _rounded_product(a.T, gradient, precision)


_rounded_product.defvjp(_rounded_product_forward, _rounded_product_backward)


def set_precision(modules: Any, precision: str) -> None:
    """Makes every layer in a pytree of modules compute its products in `precision`: float32, or bfloat16.

    Called once, where the modules are made. Parameters stay float32, and so do the values between layers, except the
    pictures inside a stack of convolutions.
    """
    for module in jax.tree.leaves(modules, is_leaf=lambda node: isinstance(node, nnx.Module)):
        if isinstance(module, nnx.Module):
            for _, layer in nnx.iter_modules(module):
                if isinstance(layer, Linear | ConvEncoder | ConvDecoder):
                    layer.precision = precision


class Linear(nnx.Module):
    """[B, inputs] -> [B, outputs]. `fan_in` also counts inputs that arrive through another layer of the same sum.

    All leading axes become one: XLA's CPU backend takes twice as long for a product with several of them.
    """

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs, *, fan_in: int | None = None, use_bias: bool = True):
        self.precision = "float32"
        init = uniform(inputs if fan_in is None else fan_in)
        self.kernel = nnx.Param(init(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(init(rngs.params(), (outputs,))) if use_bias else None

    def __call__(self, inputs: jax.Array) -> jax.Array:
        batch = inputs.shape[:-1]
        outputs = product(spread(inputs.reshape(math.prod(batch), inputs.shape[-1])), self.kernel[...], self.precision)
        if self.bias is not None:
            outputs = outputs + self.bias[...][None]
        return outputs.reshape(*batch, outputs.shape[-1])


class Style(NamedTuple):
    """Norm and activation between two dense layers. The paper has ELU without a norm, DreamerV3 RMS norm and SiLU."""

    norm: Literal["none", "rms"] = "none"
    activation: Literal["elu", "silu"] = "elu"


PLAIN = Style()


class RMSNorm(nnx.Module):
    """[B, width] divided by its root mean square, times a learned scale (Zhang and Sennrich 2019, Eq. 4)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, inputs: jax.Array) -> jax.Array:
        mean_square = jnp.mean(inputs**2, axis=-1, keepdims=True)
        scale = self.scale[...][(None,) * (inputs.ndim - 1)]
        return inputs * jax.lax.rsqrt(mean_square + RMS_EPSILON) * scale


class Activation(nnx.Module):
    """The norm of a `Style` for a layer of this width, then its activation. [B, width] -> [B, width]."""

    def __init__(self, style: Style, width: int):
        self.norm = RMSNorm(width) if style.norm == "rms" else None
        self.function = style.activation

    def __call__(self, inputs: jax.Array) -> jax.Array:
        normed = inputs if self.norm is None else self.norm(inputs)
        return jax.nn.elu(normed) if self.function == "elu" else jax.nn.silu(normed)


class MLP(nnx.Module):
    """[B, inputs] -> [B, outputs], with an `Activation` after each layer but the last.

    output_scale: a factor on the initial weights and biases of the last layer; with 0 every output starts at 0.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        outputs: int,
        rngs: nnx.Rngs,
        *,
        style: Style = PLAIN,
        output_scale: float = 1.0,
    ):
        sizes = [inputs, *widths, outputs]
        self.layers = nnx.List([Linear(n, m, rngs) for n, m in pairwise(sizes)])
        self.activations = nnx.List([Activation(style, width) for width in widths])
        if output_scale != 1:
            last = self.layers[-1]
            assert last.bias is not None
            last.kernel, last.bias = (nnx.Param(output_scale * v[...]) for v in (last.kernel, last.bias))

    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = inputs
        for layer, activation in zip(self.layers[:-1], self.activations, strict=True):
            hidden = activation(layer(hidden))
        return self.layers[-1](hidden)


class GRU(nnx.Module):
    """Gated recurrent unit with the reference's two bias vectors: the reset gate also scales the hidden bias.

    With norm="rms" it is DreamerV2's: all gates are normalised together, the reset gate scales the whole candidate, and
    the update gate starts nearly closed, so that a belief is kept by default.
    """

    def __init__(self, inputs: int, hidden: int, rngs: nnx.Rngs, *, norm: Literal["none", "rms"] = "none"):
        self.input = Linear(inputs, 3 * hidden, rngs, fan_in=hidden)
        self.hidden = Linear(hidden, 3 * hidden, rngs, fan_in=hidden)
        self.norm = RMSNorm(3 * hidden) if norm == "rms" else None

    def __call__(self, inputs: jax.Array, hidden: jax.Array) -> jax.Array:
        """[B, inputs], [B, hidden] -> the next [B, hidden]."""
        if self.norm is not None:
            reset, new, update = jnp.split(self.norm(self.input(inputs) + self.hidden(hidden)), 3, axis=-1)
            update = jax.nn.sigmoid(update - 1)
            return update * jnp.tanh(jax.nn.sigmoid(reset) * new) + (1 - update) * hidden
        reset_in, update_in, new_in = jnp.split(self.input(inputs), 3, axis=-1)
        reset_hidden, update_hidden, new_hidden = jnp.split(self.hidden(hidden), 3, axis=-1)
        reset = jax.nn.sigmoid(reset_in + reset_hidden)
        update = jax.nn.sigmoid(update_in + update_hidden)
        new = jnp.tanh(new_in + reset * new_hidden)
        return (1 - update) * new + update * hidden


class States(Protocol):
    """The kind of all stochastic states: how the outputs of a network become a distribution over [B, S]."""

    def outputs(self, width: int) -> int:
        """Returns the number of outputs for a state of `width` numbers, S."""
        ...

    def __call__(self, outputs: jax.Array) -> StateDistribution:
        """[B, outputs(S)] -> a distribution over [B, S]."""
        ...

    def split(self, both: Any, width: int) -> tuple[StateDistribution, StateDistribution]:
        """Divides a distribution over two states, the first of which has `width` numbers."""
        ...


@dataclass(frozen=True)
class GaussianStates:
    """Diagonal Gaussians, the paper's."""

    min_stddev: float

    def outputs(self, width: int) -> int:
        return 2 * width

    def __call__(self, outputs: jax.Array) -> Normal:
        """[B, 2 S] -> N(mean, (softplus + min_stddev)^2)."""
        mean, stddev = jnp.split(outputs, 2, axis=-1)
        return Normal(mean, jax.nn.softplus(stddev) + self.min_stddev)

    def split(self, both: Normal, width: int) -> tuple[Normal, Normal]:
        (first_mean, mean), (first_stddev, stddev) = (jnp.split(v, [width], axis=-1) for v in both)
        return Normal(first_mean, first_stddev), Normal(mean, stddev)


@dataclass(frozen=True)
class CategoricalStates:
    """One-hot vectors of `classes` numbers; the probabilities are mixed with even ones (DreamerV3, "unimix")."""

    classes: int  # C; the widths of all states are multiples of it
    uniform: float = 0.01  # the share of the even probabilities

    def outputs(self, width: int) -> int:
        return width

    def __call__(self, outputs: jax.Array) -> Categorical:
        """[B, S] -> S / C variables of C classes."""
        logits = outputs.reshape(*outputs.shape[:-1], outputs.shape[-1] // self.classes, self.classes)
        probabilities = (1 - self.uniform) * jax.nn.softmax(logits) + self.uniform / self.classes
        return Categorical(jnp.log(probabilities))

    def split(self, both: Categorical, width: int) -> tuple[Categorical, Categorical]:
        first, second = jnp.split(both.log_probs, [width // self.classes], axis=-2)
        return Categorical(first), Categorical(second)


RMS_EPSILON = 1e-6
PATCHES = (4, 2, 2)  # side of a patch in each layer of the patch encoder, in pixels or cells

# Convolutional encoder and decoder, Tables 3 and 4 of the paper: (width, kernel, stride) of each layer, but for the
# decoder's last. A width is a multiple of the features of the encoder's first layer, of which the paper has 32.
CONV_ENCODER = {
    64: ((1, 4, 2), (2, 4, 2), (4, 4, 2), (8, 4, 2)),
    96: ((1, 4, 2), (2, 4, 2), (4, 4, 2), (8, 4, 2), (8, 3, 1)),
}
CONV_DECODER = {  # the paper's Table 4 misprints the 96-pixel decoder's first layer, which is 3/1
    64: ((4, 5, 2), (2, 5, 2), (1, 6, 2)),
    96: ((4, 3, 1), (4, 5, 2), (2, 5, 2), (1, 6, 2)),
}
LAST = (6, 2)  # kernel, stride of the decoder's last layer


class Conv(nnx.Module):
    """Parameters of a convolution: kernel [k, k, C, O], bias [O]. `fan_in` sets their initial range."""

    def __init__(self, inputs: int, outputs: int, size: int, rngs: nnx.Rngs, *, fan_in: int):
        init = uniform(fan_in)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs)))
        self.bias = nnx.Param(init(rngs.params(), (outputs,)))


class ConvEncoder(nnx.Module):
    """Images [B, H, W, 3] -> embeddings [B, E]: strided convolutions without padding, then one linear layer."""

    def __init__(self, image_size: int, features: int, embedding: int, rngs: nnx.Rngs):
        self.precision = "float32"
        layers, channels, size = [], 3, image_size
        self.strides = tuple(stride for _, _, stride in CONV_ENCODER[image_size])
        for width, kernel, stride in CONV_ENCODER[image_size]:
            layers.append(Conv(channels, width * features, kernel, rngs, fan_in=channels * kernel * kernel))
            channels, size = width * features, (size - kernel) // stride + 1
        self.layers = nnx.List(layers)
        self.output = Linear(size * size * channels, embedding, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = spread(images.reshape(-1, *images.shape[-3:])).astype(self.precision)
        for layer, stride in zip(self.layers, self.strides, strict=True):
            hidden = conv(hidden, layer.kernel[...], layer.bias[...], stride, relu=True)
        return self.output(hidden.reshape(*images.shape[:-3], -1).astype(images.dtype))


class ConvDecoder(nnx.Module):
    """Latent features [B, L] -> image means [B, H, W, C]: one linear layer, then transposed convolutions."""

    def __init__(self, image_size: int, inputs: int, hidden: int, features: int, rngs: nnx.Rngs, *, colours: int = 3):
        self.precision = "float32"
        self.input = Linear(inputs, hidden, rngs)
        layers, channels = [], hidden
        shapes = [(width * features, kernel, stride) for width, kernel, stride in CONV_DECODER[image_size]]
        shapes.append((colours, *LAST))
        self.strides = tuple(stride for _, _, stride in shapes)
        for outputs, kernel, _ in shapes:
            # PyTorch computes the fan_in of a transposed convolution from its outputs
            layers.append(Conv(channels, outputs, kernel, rngs, fan_in=outputs * kernel * kernel))
            channels = outputs
        self.layers = nnx.List(layers)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = jax.nn.relu(self.input(inputs))
        hidden = spread(hidden.reshape(-1, 1, 1, hidden.shape[-1])).astype(self.precision)
        for i, (layer, stride) in enumerate(zip(self.layers, self.strides, strict=True)):
            hidden = conv_transpose(hidden, layer.kernel[...], layer.bias[...], stride, relu=i < len(self.strides) - 1)
        return hidden.reshape(*inputs.shape[:-1], *hidden.shape[1:]).astype(inputs.dtype)


def to_patches(images: jax.Array, size: int) -> jax.Array:
    """[N, H, W, C] -> [N, H / size, W / size, size * size * C]: space to depth."""
    count, height, width, channels = images.shape
    cells = images.reshape(count, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return cells.reshape(count, height // size, width // size, size * size * channels)


def from_patches(cells: jax.Array, size: int) -> jax.Array:
    """The inverse of `to_patches`: depth to space."""
    count, height, width, channels = cells.shape
    images = cells.reshape(count, height, width, size, size, channels // size**2).swapaxes(2, 3)
    return images.reshape(count, height * size, width * size, channels // size**2)


class PatchEncoder(nnx.Module):
    """Images [B, H, W, 3] -> embeddings [B, E] by matrix products alone, which suit CPU cores best.

    Our own, for `size=plain` and `small`: each layer maps every patch of its input to one cell; patches do not overlap.
    """

    def __init__(self, image_size: int, channels: Sequence[int], embedding: int, rngs: nnx.Rngs):
        side = image_size // math.prod(PATCHES)
        inputs = [3, *channels[:-1]]
        self.layers = nnx.List([Linear(n * k * k, m, rngs) for n, m, k in zip(inputs, channels, PATCHES, strict=True)])
        self.output = Linear(side * side * channels[-1], embedding, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        hidden = spread(images.reshape(-1, *images.shape[-3:]))
        for layer, size in zip(self.layers, PATCHES, strict=True):
            hidden = jax.nn.elu(layer(to_patches(hidden, size)))
        return self.output(hidden.reshape(*images.shape[:-3], -1))


class PatchDecoder(nnx.Module):
    """Latent features [B, L] -> image means [B, H, W, C] by matrix products alone: `PatchEncoder` in reverse."""

    def __init__(
        self,
        image_size: int,
        inputs: int,
        hidden: int,
        channels: Sequence[int],
        rngs: nnx.Rngs,
        *,
        colours: int = 3,
        style: Style = PLAIN,
    ):
        self.side = image_size // math.prod(PATCHES)
        self.input = MLP(inputs, [hidden], self.side * self.side * channels[-1], rngs, style=style)
        outputs = [colours, *channels[:-1]]
        self.layers = nnx.List([Linear(m, n * k * k, rngs) for n, m, k in zip(outputs, channels, PATCHES, strict=True)])

    def __call__(self, inputs: jax.Array) -> jax.Array:
        flat = jax.nn.elu(self.input(inputs))
        hidden = spread(flat.reshape(-1, self.side, self.side, flat.shape[-1] // self.side**2))
        for layer, size in zip(self.layers[:0:-1], PATCHES[:0:-1], strict=True):
            hidden = jax.nn.elu(from_patches(layer(hidden), size))
        images = from_patches(self.layers[0](hidden), PATCHES[0])
        return images.reshape(*inputs.shape[:-1], *images.shape[1:])
