"""The agent as a whole: sizes, pure updates, acting."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.config.compose import compose
from denoised_mdp.runs.replay import Batch

A = 2
DEBUG = ["size=debug", "model=xyz"]


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def make_batches(updates: int, length: int = 4, batch: int = 2) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        observation=rng.integers(0, 256, (updates, length, batch, 64, 64, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (updates, length, batch, A)).astype(np.float32),
        reward=rng.uniform(size=(updates, length, batch)).astype(np.float32),
        is_first=np.zeros((updates, length, batch), bool),
        is_terminal=np.zeros((updates, length, batch), bool),
        factors={},
    )


def make_state(agent: Agent) -> TrainState:
    """With the same number everywhere, for tests to which the numbers do not matter: drawing them takes seconds."""
    shapes = agent.shapes()
    return jax.tree.map(lambda v: np.full(v.shape, 0.01).astype(v.dtype), shapes)


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(compose(DEBUG), A)


@pytest.mark.parametrize(
    ("overrides", "actions", "expected"),
    [  # Table 5: the value network is counted
        (["model=xy"], 2, 7_478_826),
        (["model=xy"], 6, 7_482_514),
        (["model=x"], 2, 7_479_789),
        (["model=xy", "env.image_size=96"], 5, 6_384_248),
        (["model=x", "env.image_size=96"], 5, 6_385_511),
    ],
)
def test_paper_size_has_the_paper_s_parameters(overrides, actions, expected):
    agent = Agent(compose(["size=paper", *overrides]), actions)
    state = agent.shapes()
    assert count((state.world_model, state.policy.actor, state.policy.critic)) == expected


@pytest.mark.parametrize(
    ("overrides", "actions", "sizes", "without_critic"),
    [
        ([], 2, (541_120, 434_402, 1_739_744, 3_846_755, 539_204), 7_101_225),
        ([], 6, (541_600, 434_402, 1_739_744, 3_846_755, 542_412), 7_104_913),
        (["env.image_size=96"], 5, (541_480, 434_402, 2_329_824, 2_159_331, 541_610), 6_006_647),
    ],
)
def test_parts_of_the_paper_s_model_have_its_sizes(overrides, actions, sizes, without_critic):
    agent = Agent(compose(["size=paper", *overrides]), actions)
    state = agent.shapes()
    model = state.world_model
    rewards = (model.reward_x, model.reward_y)
    parts = (model.transition, rewards, model.encoder, model.decoder, state.policy.actor)
    assert tuple(map(count, parts)) == sizes and sum(sizes) == without_critic
    assert count(state.policy.critic) == 377_601


def transition_size(x: tuple[int, int], y: tuple[int, int], z: tuple[int, int], actions: int, *, z_sees_y: bool) -> int:
    """Parameters of the transition with parts of these widths, belief and state, layer by layer."""
    embedding = 1024

    def dense(*widths: int) -> int:
        return sum(n * m + m for n, m in pairwise(widths))

    def prior(belief: int, state: int) -> int:  # a GRU, then two layers
        return 3 * (2 * belief * belief + 2 * belief) + dense(belief, belief, 2 * state)

    seen_by_z = sum(x) + (sum(y) if z_sees_y else 0) + z[1] + actions
    return (
        dense(x[1] + actions, x[0])
        + prior(*x)
        + dense(y[1], y[0])
        + prior(*y)
        + dense(seen_by_z, z[0], z[0])
        + prior(*z)
        + dense(x[0] + y[0] + sum(z) + embedding, x[0] + y[0], 2 * (x[1] + y[1]))
        + dense(sum(x) + sum(y) + z[0] + embedding, z[0], 2 * z[1])
    )


@pytest.mark.parametrize("z_prior_uses_y", [True, False])
def test_figure_2c_has_the_layers_of_the_reference(z_prior_uses_y):
    """The paper gives no count for it, so the layers are counted here; the same sum gives the paper's for Fig. 2b."""
    assert transition_size((120, 20), (120, 20), (0, 0), 2, z_sees_y=True) == 541_120
    agent = Agent(compose(["size=paper", "model=xyz", f"model.z_prior_uses_y={z_prior_uses_y}"]), 2)
    state = agent.shapes()
    expected = transition_size((120, 20), (70, 10), (70, 10), 2, z_sees_y=z_prior_uses_y)
    assert count(state.world_model.transition) == expected


def test_a_chunk_is_its_updates_one_by_one(agent):
    batches, key = make_batches(3), jax.random.key(7)
    whole, _ = agent.train_chunk(agent.create(jax.random.key(0)), batches, key)
    one_by_one = agent.create(jax.random.key(0))
    for k in range(3):
        one_by_one, _ = agent.train_chunk(one_by_one, jax.tree.map(lambda v, k=k: v[k : k + 1], batches), key)
    assert int(whole.updates) == int(one_by_one.updates) == 3
    jax.tree.map(np.testing.assert_array_equal, whole, one_by_one)


def test_updates_lower_the_loss_on_their_batch(agent):
    batches = jax.tree.map(lambda v: np.repeat(v, 60, axis=0), make_batches(1))
    state, first = agent.train_chunk(
        agent.create(jax.random.key(0)), jax.tree.map(lambda v: v[:1], batches), jax.random.key(0)
    )
    state, _ = agent.train_chunk(state, batches, jax.random.key(0))
    _, last = agent.train_chunk(state, jax.tree.map(lambda v: v[:1], batches), jax.random.key(0))
    assert last["model/observation_loss"] < first["model/observation_loss"]
    assert last["model/reward_loss"] < first["model/reward_loss"]
    assert all(np.isfinite(value) for value in last.values())


def test_acting_starts_anew_with_an_episode(agent):
    state, observation = agent.create(jax.random.key(0)), make_batches(1).observation[0, 0]
    arguments = (observation, np.ones(2, bool), jax.random.key(0))
    used = jax.tree.map(lambda v: v + 1, agent.initial(2))
    fresh = agent.act(agent.acting(state), agent.initial(2), *arguments, explore=True)
    anew = agent.act(agent.acting(state), used, *arguments, explore=True)
    jax.tree.map(np.testing.assert_array_equal, fresh, anew)
    going_on = agent.act(agent.acting(state), used, observation, np.zeros(2, bool), jax.random.key(0), explore=True)
    assert not np.array_equal(going_on.latent.x.belief, fresh.latent.x.belief)


def test_actions_are_in_range_and_only_exploring_ones_are_noisy(agent):
    state, observation = agent.create(jax.random.key(0)), make_batches(1).observation[0, 0]
    actions = {}
    for explore in (True, False):
        memory = agent.act(
            agent.acting(state),
            agent.initial(2),
            observation,
            np.ones(2, bool),
            jax.random.key(0),
            explore=explore,
        )
        actions[explore] = np.asarray(memory.action)
        assert memory.action.shape == (2, A) and bool(jnp.all(jnp.abs(memory.action) <= 1))
    assert not np.array_equal(actions[True], actions[False])
