"""Random actions: the same for a key and a step, and what they are said to be."""

import jax
import numpy as np
import pytest

from denoised_mdp.prefill import PREFILLS

SHAPE, STRETCH = (200, 2), 20


@pytest.mark.parametrize("name", PREFILLS)
def test_actions_follow_from_key_and_env_step(name):
    act, key = PREFILLS[name], jax.random.key(3)
    first = act(key, 40, STRETCH, SHAPE)
    np.testing.assert_array_equal(first, act(key, 40, STRETCH, SHAPE))
    assert not np.array_equal(first, act(key, 60, STRETCH, SHAPE))
    assert not np.array_equal(first, act(jax.random.key(4), 40, STRETCH, SHAPE))
    assert first.shape == SHAPE and first.dtype == np.float32


def test_half_of_the_stretches_of_mixed_actions_are_one_force_and_the_others_uniform():
    steps = np.stack([PREFILLS["mixed"](jax.random.key(0), s, STRETCH, SHAPE) for s in range(40, 60)])
    full = (np.abs(steps) == 1).all(axis=(0, 2))
    assert 0.35 < full.mean() < 0.65
    assert (steps[:, full] == steps[0, full]).all()  # held
    assert 0.4 < (steps[0, full] > 0).mean() < 0.6
    free = steps[:, ~full]
    assert (np.abs(free) < 1).all() and abs(free.mean()) < 0.03 and abs(free.std() - 3**-0.5) < 0.02
