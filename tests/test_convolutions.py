"""The fast forms compute what the plain operations do: values and gradients, every layer of the paper's networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from denoised_mdp.model import convolutions
from denoised_mdp.model.nets import CONV_DECODER, CONV_ENCODER, LAST

FEATURES = 2  # of the encoder's first layer; the paper has 32
ENCODER, DECODER = set(), set()  # (side of the inputs, C, O, kernel, stride)
for image_size in (64, 96):
    side, channels = image_size, 3
    for width, kernel, stride in CONV_ENCODER[image_size]:
        ENCODER.add((side, channels, width * FEATURES, kernel, stride))
        side, channels = (side - kernel) // stride + 1, width * FEATURES
    side, channels = 1, 32 * FEATURES
    for outputs, kernel, stride in [*((w * FEATURES, k, s) for w, k, s in CONV_DECODER[image_size]), (3, *LAST)]:
        DECODER.add((side, channels, outputs, kernel, stride))
        side, channels = (side - 1) * stride + kernel, outputs


def both(fast, plain, shape, *, count=3, relu=True, dtype="float32"):
    """Values and gradients of the two forms, with the same random inputs, kernel, bias and weights of the outputs."""
    side, channels, outputs, kernel, stride = shape
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(count, side, side, channels)), dtype)
    weights = rng.normal(size=(kernel, kernel, channels, outputs)).astype(np.float32)
    bias = rng.normal(size=outputs).astype(np.float32)
    results = []
    for form in (fast, plain):
        values, pullback = jax.vjp(lambda *a, form=form: form(*a, stride, relu=relu), images, weights, bias)
        gradient = jnp.asarray(np.random.default_rng(1).normal(size=values.shape), dtype)
        results.append([np.asarray(v, np.float32) for v in (values, *pullback(gradient))])
    return results


def assert_same(fast, plain, tolerance=3e-6):
    for a, b in zip(fast, plain, strict=True):
        assert a.shape == b.shape and np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, atol=tolerance * float(np.abs(b).max()))


@pytest.mark.parametrize("shape", sorted(ENCODER), ids=str)
def test_a_convolution_of_patches_is_the_plain_one(shape):
    assert_same(*both(convolutions.conv, convolutions.plain_conv, shape))


@pytest.mark.parametrize("shape", sorted(DECODER), ids=str)
def test_overlapping_pieces_are_the_plain_transposed_convolution(shape):
    assert_same(*both(convolutions.conv_transpose, convolutions.plain_conv_transpose, shape))


@pytest.mark.parametrize("count", [6, 7])  # three chunks of two pictures; four, the last of which is not full
def test_a_batch_in_chunks_is_the_whole(monkeypatch, count):
    shape = (9, 3, 4, 4, 2)
    monkeypatch.setattr(convolutions, "CACHE_BYTES", 2 * 4 * 3 * 3 * 4 * 4 * 3)
    assert_same(*both(convolutions.conv, convolutions.plain_conv, shape, count=count, relu=False))
    shape = (3, 4, 3, 5, 2)
    monkeypatch.setattr(convolutions, "CACHE_BYTES", 2 * 4 * 3 * 3 * 5 * 5 * 3)
    assert_same(*both(convolutions.conv_transpose, convolutions.plain_conv_transpose, shape, count=count, relu=False))


def test_rounded_numbers_change_no_more_than_their_rounding():
    for fast, plain, shape in (
        (convolutions.conv, convolutions.plain_conv, (10, 4, 6, 4, 2)),
        (convolutions.conv_transpose, convolutions.plain_conv_transpose, (4, 6, 4, 5, 2)),
    ):
        rounded, _ = both(fast, plain, shape, relu=False, dtype="bfloat16")  # else a sign that changes is no rounding
        _, exact = both(fast, plain, shape, relu=False)
        assert_same(rounded, exact, tolerance=2**-5)
        assert any(np.abs(a - b).max() > 2**-12 for a, b in zip(rounded, exact, strict=True))
