"""Random actions: the same for a key and a step, and what they are said to be."""

import jax
import numpy as np
import pytest

from denoised_mdp.training.prefill import PREFILLS

SHAPE, STRETCH = (200, 2), 20


@pytest.mark.parametrize("name", PREFILLS)
def test_actions_follow_from_key_and_env_step(name):
    act, key = PREFILLS[name], jax.random.key(3)
    first = act(key, 40, STRETCH, SHAPE)
    np.testing.assert_array_equal(first, act(key, 40, STRETCH, SHAPE))
    assert not np.array_equal(first, act(key, 60, STRETCH, SHAPE))
    assert not np.array_equal(first, act(jax.random.key(4), 40, STRETCH, SHAPE))
    assert first.shape == SHAPE and first.dtype == np.float32


def test_a_held_force_is_full_and_stays_for_a_stretch():
    steps = np.stack([PREFILLS["held"](jax.random.key(0), s, STRETCH, SHAPE) for s in range(40, 61)])
    assert (np.abs(steps) == 1).all() and 0.4 < (steps[0] > 0).mean() < 0.6
    assert (steps[:-1] == steps[0]).all() and not (steps[-1] == steps[0]).all()


def test_uniform_actions_are():
    actions = PREFILLS["uniform"](jax.random.key(0), 0, STRETCH, SHAPE)
    assert (np.abs(actions) < 1).all() and abs(actions.mean()) < 0.1 and abs(actions.std() - 3**-0.5) < 0.05
