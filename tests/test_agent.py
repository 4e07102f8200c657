"""The agent as a whole: sizes, pure updates, acting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from denoised_mdp import cli
from denoised_mdp.agent import Agent
from denoised_mdp.replay import Batch

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


@pytest.fixture(scope="module")
def agent() -> Agent:
    return Agent(cli.compose(DEBUG), A)


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
    agent = Agent(cli.compose(["size=paper", *overrides]), actions)
    state = jax.eval_shape(lambda: agent.create(jax.random.key(0)))
    assert count((state.world_model, state.policy.actor, state.policy.critic)) == expected


def test_parts_of_the_paper_s_model_have_its_sizes():
    state = jax.eval_shape(lambda: Agent(cli.compose(["size=paper"]), 2).create(jax.random.key(0)))
    model = state.world_model
    sizes = {
        "transition": count(model.transition),
        "reward": count((model.reward_x, model.reward_y)),
        "encoder": count(model.encoder),
        "decoder": count(model.decoder),
        "actor": count(state.policy.actor),
        "critic": count(state.policy.critic),
    }
    assert sizes == {
        "transition": 541_120,
        "reward": 434_402,
        "encoder": 1_739_744,
        "decoder": 3_846_755,
        "actor": 539_204,
        "critic": 377_601,
    }


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
    fresh = agent.act(state.world_model, state.policy.actor, agent.initial(2), *arguments, explore=True)
    anew = agent.act(state.world_model, state.policy.actor, used, *arguments, explore=True)
    jax.tree.map(np.testing.assert_array_equal, fresh, anew)
    going_on = agent.act(
        state.world_model, state.policy.actor, used, observation, np.zeros(2, bool), jax.random.key(0), explore=True
    )
    assert not np.array_equal(going_on.latent.x.belief, fresh.latent.x.belief)


def test_actions_are_in_range_and_only_exploring_ones_are_noisy(agent):
    state, observation = agent.create(jax.random.key(0)), make_batches(1).observation[0, 0]
    actions = {}
    for explore in (True, False):
        memory = agent.act(
            state.world_model,
            state.policy.actor,
            agent.initial(2),
            observation,
            np.ones(2, bool),
            jax.random.key(0),
            explore=explore,
        )
        actions[explore] = np.asarray(memory.action)
        assert memory.action.shape == (2, A) and bool(jnp.all(jnp.abs(memory.action) <= 1))
    assert not np.array_equal(actions[True], actions[False])
