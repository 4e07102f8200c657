"""The time of each convolution of encoder and decoder with its gradients, in both forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.table import Row
from benchmarks.timing import timed
from denoised_mdp.config import Config
from denoised_mdp.model import convolutions
from denoised_mdp.model.nets import CONV_DECODER, CONV_ENCODER, LAST

PICTURES = 250  # at a time

FORMS = {  # by the coder that a layer belongs to
    "encoder": {"plain": convolutions.plain_conv, "product": convolutions.product_conv},
    "decoder": {"plain": convolutions.plain_conv_transpose, "product": convolutions.product_conv_transpose},
}


class Layer(NamedTuple):
    """The shape of one convolution."""

    coder: str  # encoder, or decoder, whose convolutions are transposed
    side: int  # of the input pictures
    inputs: int
    outputs: int
    kernel: int
    stride: int

    @property
    def side_out(self) -> int:
        """The side of the output pictures."""
        if self.coder == "encoder":
            return (self.side - self.kernel) // self.stride + 1
        return (self.side - 1) * self.stride + self.kernel


def layers(config: Config) -> Iterator[Layer]:
    """Yields the convolutions of the encoder, then those of the decoder, from the input on."""
    model, size = config.model, config.env.image_size
    side, inputs = size, 3
    for width, kernel, stride in CONV_ENCODER[size]:
        layer = Layer("encoder", side, inputs, width * model.conv_features, kernel, stride)
        yield layer
        side, inputs = layer.side_out, layer.outputs
    side, inputs = 1, model.decoder_hidden
    for width, kernel, stride in [*((w * model.conv_features, k, s) for w, k, s in CONV_DECODER[size]), (3, *LAST)]:
        layer = Layer("decoder", side, inputs, width, kernel, stride)
        yield layer
        side, inputs = layer.side_out, layer.outputs


def measure(config: Config, *, repeats: int) -> list[Row]:
    """Measures milliseconds for the output and the gradients to kernel, bias and pictures, for 250 pictures."""
    rows: list[Row] = []
    totals: dict[str, float] = {}
    for layer in layers(config):
        name = f"{layer.coder}_{layer.side}x{layer.inputs}_to_{layer.side_out}x{layer.outputs}"
        for form, function in FORMS[layer.coder].items():
            seconds = _seconds(layer, function, config.precision, repeats)
            totals[form] = totals.get(form, 0.0) + seconds
            rows.append(Row(f"{name}_{form}", 1000 * seconds, "ms", f"{PICTURES} pictures"))
    return rows + [Row(f"all_{form}", 1000 * seconds, "ms") for form, seconds in totals.items()]


def _seconds(layer: Layer, function, precision: str, repeats: int) -> float:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jax.numpy.asarray(rng.standard_normal(shape), np.float32)

    images = normal(PICTURES, layer.side, layer.side, layer.inputs).astype(precision)
    kernel = normal(layer.kernel, layer.kernel, layer.inputs, layer.outputs) * 0.01
    bias, towards = normal(layer.outputs), normal(PICTURES, layer.side_out, layer.side_out, layer.outputs)

    def loss(images, kernel, bias):
        outputs = function(images, kernel, bias, layer.stride, relu=True)
        return jax.numpy.sum(outputs.astype(np.float32) * towards)

    program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    timed(lambda: program(images, kernel, bias))
    return float(np.median([timed(lambda: program(images, kernel, bias))[0].wall for _ in range(repeats)]))
