"""The error of decoded pictures and its gradients, some pictures at a time, against all at once by automatic means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from denoised_mdp.model import reconstruction
from denoised_mdp.model.nets import PatchDecoder


def plain(decoder, features, observation):
    error = (reconstruction.pixels(observation) - decoder(features)) ** 2
    return jnp.mean(jnp.sum(error, axis=(-3, -2, -1)))


@pytest.mark.parametrize("at_a_time", [4, 5, 100])  # three parts of four; no parts: 5 does not divide 12 nearly enough
def test_the_error_and_its_gradients_are_those_of_all_pictures_at_once(monkeypatch, at_a_time):
    monkeypatch.setattr(reconstruction, "PICTURES_AT_A_TIME", at_a_time)
    decoder = PatchDecoder(64, 7, 8, [4, 4, 4], nnx.Rngs(0))
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(3, 4, 7)), jnp.float32)
    observation = rng.integers(0, 256, (3, 4, 64, 64, 3), dtype=np.uint8)
    found, expected = (
        jax.value_and_grad(lambda d, f, form=form: 3 * form(d, f, observation), (0, 1))(decoder, features)
        for form in (reconstruction.squared_error, plain)
    )
    assert reconstruction.squared_error(decoder, features, observation) == pytest.approx(float(expected[0]) / 3)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * float(jnp.abs(b).max()))
