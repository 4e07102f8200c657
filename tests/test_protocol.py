"""Initialisation, optimiser, exploration and evaluation, as in the reference; the loop's part is in test_train.py."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_agent import A, make_state

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.agent.actor_critic import INITIAL_STDDEV, MIN_STDDEV
from denoised_mdp.config.compose import compose
from denoised_mdp.model import nets
from denoised_mdp.model.distributions import TanhNormal
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.runs.evaluation import evaluation_envs, rollout

N = 256  # environments


# Initialisation

X, Y, Z = 120 + 20, 70 + 10, 70 + 10  # widths of the features, Table 5
FAN_IN = {  # of PyTorch's layers, for size=paper model=xyz with six actions
    "encoder.layers.0": 3 * 4 * 4,
    "encoder.layers.1": 32 * 4 * 4,
    "encoder.layers.2": 64 * 4 * 4,
    "encoder.layers.3": 128 * 4 * 4,
    "encoder.output": 256 * 2 * 2,
    "decoder.input": X + Y + Z,
    "decoder.layers.0": 128 * 5 * 5,  # a transposed convolution counts its outputs
    "decoder.layers.1": 64 * 5 * 5,
    "decoder.layers.2": 32 * 6 * 6,
    "decoder.layers.3": 3 * 6 * 6,
    "transition.x_prior.embed.layers.0": 20 + 6,
    "transition.x_prior.gru.input": 120,  # a GRU counts its hidden width, for both of its matrices
    "transition.x_prior.gru.hidden": 120,
    "transition.x_prior.head.layers.0": 120,
    "transition.x_prior.head.layers.1": 120,
    "transition.y_prior.embed.layers.0": 10,
    "transition.y_prior.gru.input": 70,
    "transition.y_prior.gru.hidden": 70,
    "transition.y_prior.head.layers.0": 70,
    "transition.y_prior.head.layers.1": 70,
    "transition.z_prior.embed.layers.0": X + Y + 10 + 6,
    "transition.z_prior.embed.layers.1": 70,
    "transition.z_prior.gru.input": 70,
    "transition.z_prior.gru.hidden": 70,
    "transition.z_prior.head.layers.0": 70,
    "transition.z_prior.head.layers.1": 70,
    "transition.xy_posterior.latents": 120 + 70 + Z + 1024,  # the two are one layer of the reference
    "transition.xy_posterior.embedding": 120 + 70 + Z + 1024,
    "transition.xy_posterior.output": 120 + 70,
    "transition.z_posterior.latents": X + Y + 70 + 1024,
    "transition.z_posterior.embedding": X + Y + 70 + 1024,
    "transition.z_posterior.output": 70,
    "reward_x.layers.0": X,
    "reward_x.layers.1": 400,
    "reward_x.layers.2": 400,
    "reward_y.layers.0": Y,
    "reward_y.layers.1": 400,
    "reward_y.layers.2": 400,
    "actor.net.layers.0": X,
    "actor.net.layers.1": 400,
    "actor.net.layers.2": 400,
    "actor.net.layers.3": 400,
    "actor.net.layers.4": 400,
    "critic.layers.0": X,
    "critic.layers.1": 400,
    "critic.layers.2": 400,
    "critic.layers.3": 400,
}


def test_what_is_drawn_is_uniform_within_one_over_the_root_of_the_fan_in():
    drawn = np.asarray(nets.uniform(16)(jax.random.key(0), (20_000,))) / 16**-0.5
    quarters = np.quantile(drawn, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(quarters, [-1, -0.5, 0, 0.5, 1], atol=0.02)
    assert np.abs(drawn).max() <= 1
    assert not np.any(nets.uniform(0)(jax.random.key(0), (3,)))


def test_every_layer_is_drawn_with_pytorch_s_fan_in(monkeypatch):
    """Weights and biases alike. Each parameter here is the fan-in it is drawn with, instead of the draw."""
    monkeypatch.setattr(nets, "uniform", lambda n: lambda key, shape, dtype=np.float32: np.full(shape, n, dtype))
    agent = Agent(compose(["size=paper", "model=xyz"]), 6)
    state = agent.create(jax.random.key(0))
    modules = {"actor": state.policy.actor, "critic": state.policy.critic}
    trees = nnx.to_pure_dict(nnx.state(state.world_model)) | {
        name: nnx.to_pure_dict(nnx.state(module)) for name, module in modules.items()
    }
    found = defaultdict(set)
    for path, array in jax.tree_util.tree_leaves_with_path(trees):
        found[".".join(str(key.key) for key in path[:-1])] |= set(np.unique(array).tolist())
    assert found == {name: {fan_in} for name, fan_in in FAN_IN.items()}


# Optimiser


def test_adam_is_pytorch_s_after_clipping_the_norm():
    """Betas 0.9 and 0.999; epsilon beside the root, where it halves the first step of a gradient of its own size."""
    rate, epsilon, clip_norm = 0.01, 1e-7, 100.0
    adam = Adam(rate, epsilon=epsilon, clip_norm=clip_norm)
    parameters = {"w": jnp.array([1.0, -2.0, 0.5])}
    moments = adam.init(parameters)
    expected, m, v = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    for t, gradient in enumerate(([120.0, -160.0, 2e-7], [3.0, 4.0, 1e-7], [-300.0, 400.0, 0.0]), start=1):
        parameters, moments, norm = adam.step(parameters, {"w": jnp.array(gradient)}, moments)
        g = np.array(gradient)
        np.testing.assert_allclose(norm, np.linalg.norm(g), rtol=1e-6)
        g = g * min(1.0, clip_norm / np.linalg.norm(g))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected = expected - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + epsilon)
        np.testing.assert_allclose(parameters["w"], expected, rtol=2e-6)


# Exploration and evaluation


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(compose(["size=debug", "model=xy"]), A)


@pytest.fixture(scope="module")
def state(agent) -> TrainState:
    return make_state(agent)


def act(agent: Agent, state: TrainState, stddev: float, key: int, *, explore: bool) -> Any:
    """At the start of N episodes, by an actor that sees nothing: tanh(u) with u ~ N(0, stddev^2)."""
    actor = jax.tree.map(jnp.asarray, state.policy.actor)
    last = actor.net.layers[-1]
    raw = jnp.log(jnp.expm1(stddev - MIN_STDDEV)) - jnp.log(jnp.expm1(INITIAL_STDDEV))
    last.kernel[...] = jnp.zeros_like(last.kernel[...])
    last.bias[...] = jnp.concatenate([jnp.zeros(A), jnp.full(A, raw)])
    observation = np.zeros((N, 64, 64, 3), np.uint8)
    first = np.ones(N, bool)
    acting = agent.acting(state._replace(policy=state.policy._replace(actor=actor)))
    return agent.act(acting, agent.initial(N), observation, first, jax.random.key(key), explore=explore)


def test_exploring_adds_noise_of_stddev_0_3(agent, state):
    action = np.asarray(act(agent, state, 0.01, 0, explore=True).action)
    assert abs(action.mean()) < 0.05
    assert abs(action.std() - 0.3) < 0.03
    wide = np.asarray(act(agent, state, 5.0, 0, explore=True).action)
    assert wide.min() == -1 and wide.max() == 1


def test_evaluation_takes_the_likeliest_of_a_hundred_samples(agent, state):
    """A further sample is likelier than the best of n with probability 1 / (n + 1): that tells n."""
    action = act(agent, state, 0.2, 0, explore=False).action
    policy = TanhNormal(jnp.zeros((1, A)), jnp.full((1, A), 0.2))
    _, others = policy.sample_and_log_prob(jax.random.normal(jax.random.key(1), (20_000, A)))
    likelier = np.mean(np.asarray(others)[None] > np.asarray(policy.log_prob(action))[:, None])
    assert abs(likelier - 1 / 101) < 0.002


def test_evaluation_still_samples_the_posterior(agent, state):
    states = [act(agent, state, 0.2, key, explore=False).latent.x.state for key in (0, 1)]
    assert not np.array_equal(*states)


class Still:
    """An agent that does nothing, for `rollout`."""

    action_size = 6

    def acting(self, state: None) -> list[jax.Array]:
        return []

    def initial(self, environments: int) -> None:
        return None

    def act(self, *arguments: Any, explore: bool) -> SimpleNamespace:
        assert not explore
        return SimpleNamespace(action=np.zeros((len(arguments[2]), self.action_size), np.float32))


def test_every_evaluation_meets_the_same_starts_and_videos_and_no_two_episodes_share_theirs():
    short = ["env.action_repeat=500", "train.every=500", "train.batch_length=2", "noise.clip_frames=5"]
    config = compose(["size=debug", "noise=video_background", "render.backend=ray", "evaluate.episodes=3", *short])
    envs = evaluation_envs(config)
    still: Any = Still()
    nothing: Any = None
    first, again = (
        [episode.observation for episode in rollout(still, nothing, envs, jax.random.key(k), seed=1841, record=3)]
        for k in (0, 1)
    )
    for env in envs:
        env.close()
    np.testing.assert_array_equal(first, again)
    for i in range(3):
        for j in range(i):
            assert not np.array_equal(first[i][0], first[j][0])
