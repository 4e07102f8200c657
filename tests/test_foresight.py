"""How much of the reward a model explains, against numpy and on models whose answer is known."""

from types import SimpleNamespace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest

from denoised_mdp.model import foresight
from denoised_mdp.model.distributions import Normal
from denoised_mdp.model.latent import Factor, by_name

T, B = 32, 5


class Counter:
    """x is a number that moves by the action, and the reward is x plus y. A `drift` spoils what lies ahead."""

    def __init__(self, drift: float = 0.0):
        self.drift, self.transition = drift, self

    def x_step(self, x, action):
        state = x.state + action + self.drift
        return x.belief, Normal(state, jnp.ones(state.shape))

    def x_reward(self, x):
        return x.state[..., 0]

    def reward(self, x, y):
        return self.x_reward(x) + y.state[..., 0]


def experience(y=0.0, is_first=None):
    rng = np.random.default_rng(0)
    action = rng.normal(size=(T, B, 1)).astype(np.float32)
    x = np.cumsum(action, axis=0)
    nothing = jnp.zeros((T, B, 0))
    states = {"x": jnp.asarray(x), "y": jnp.full((T, B, 1), y)}
    s = by_name(lambda part: Factor(nothing, states.get(part, nothing)))
    is_first = np.zeros((T, B), bool) if is_first is None else is_first
    return s, SimpleNamespace(action=action, reward=x[..., 0], is_first=is_first)


def figures_of(model, s, batch):
    return foresight.divided(foresight.figures(cast(Any, model), s, cast(Any, batch)))


def test_a_model_that_is_right_explains_everything():
    s, batch = experience()
    figures = figures_of(Counter(), s, batch)
    assert figures["reward_r2"] == pytest.approx(1) and figures["reward_r2_ahead"] == pytest.approx(1, abs=1e-5)
    assert figures["reward_y_share"] == 0


def test_dynamics_that_are_wrong_spoil_only_what_lies_ahead():
    s, batch = experience()
    figures = figures_of(Counter(drift=0.3), s, batch)
    start = T // 4
    true = batch.reward[start + 6 : start + 11]
    wrong = true + 0.3 * np.arange(6, 11)[:, None]
    assert figures["reward_r2"] == pytest.approx(1)
    assert figures["reward_r2_ahead"] == pytest.approx(1 - np.mean((wrong - true) ** 2) / true.var(), rel=1e-4)


def test_what_follows_the_end_of_an_episode_does_not_count():
    s, batch = experience()
    reward = batch.reward.copy()
    start = T // 4
    batch.is_first[start + 8, 2] = True
    reward[start + 8 :, 2] += 1e3  # of another episode, which the recorded actions do not lead to
    batch.reward = reward
    predicted, true, same = map(np.asarray, foresight.ahead(cast(Any, Counter()), s.x, cast(Any, batch)))
    assert same.sum() == 5 * B - 3 and not same[2:, 2].any()
    np.testing.assert_allclose(predicted[same > 0], true[same > 0], rtol=1e-5)


def r2(predicted, true, weight):
    return foresight.divided({"r2": foresight.unexplained(*map(jnp.asarray, (predicted, true, weight)))})["r2"]


def test_batches_without_a_reward_do_not_hide_what_the_others_show():
    rng = np.random.default_rng(2)
    true = np.zeros((8, 7, B))
    true[0] = rng.normal(size=(7, B))
    predicted = true + 0.1
    ones = jnp.ones((7, B))
    batches = zip(jnp.asarray(predicted), jnp.asarray(true), strict=True)
    of_each = [foresight.unexplained(guess, reward, ones) for guess, reward in batches]
    mean = foresight.Ratio(*jnp.mean(jnp.asarray(of_each), axis=0))
    assert foresight.divided({"r2": mean})["r2"] == pytest.approx(1 - 0.01 / (true[0].var() / 8), rel=1e-4)
    alone = [float(foresight.divided({"r2": ratio})["r2"]) for ratio in of_each]
    assert np.mean(alone) < -0.5  # the mean of shares


def test_r2_is_numpy_s_and_bounded_from_below():
    rng = np.random.default_rng(1)
    true, weight = rng.normal(size=(7, B)), rng.integers(0, 2, (7, B))
    predicted = true + 0.5 * rng.normal(size=true.shape)
    chosen = weight > 0
    expected = 1 - np.mean((true - predicted)[chosen] ** 2) / true[chosen].var()
    assert r2(predicted, true, weight) == pytest.approx(expected, rel=1e-4)
    assert r2(np.ones((7, B)), np.zeros((7, B)), np.ones((7, B))) == foresight.LEAST


def test_a_reward_in_y_shows():
    s, batch = experience()
    moving = s._replace(y=Factor(s.y.belief, 0.5 * jnp.asarray(batch.reward)[..., None]))
    figures = figures_of(Counter(), moving, batch)
    assert figures["reward_y_share"] == pytest.approx(0.25, rel=1e-4)
