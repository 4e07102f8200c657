"""Soft actor-critic: its losses against numpy, which transitions count, and a whole run."""

import shutil
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from test_agent import make_batches
from test_world_model import make as make_world_model

from denoised_mdp.agent import Agent
from denoised_mdp.agent.sac import SACLearner, SoftActorCritic, Transitions, transitions
from denoised_mdp.config.compose import compose
from denoised_mdp.model.latent import Factor
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.runs import checkpoint
from denoised_mdp.runs.logger import read_metrics
from denoised_mdp.runs.metrics import METRICS
from denoised_mdp.runs.replay import Batch
from denoised_mdp.training import loop

T, B, A, N = 5, 3, 2, 12
DISCOUNT, TAU, TEMPERATURE = 0.9, 0.1, 0.4


def learner(learning_rate: float = 1e-3) -> SACLearner:
    adam = Adam(learning_rate, epsilon=1e-7, clip_norm=None)
    return SACLearner(
        actor_widths=[8],
        critic_widths=[8],
        actor_optimizer=adam,
        critic_optimizer=adam,
        temperature_optimizer=adam,
        discount=DISCOUNT,
        tau=TAU,
        initial_temperature=TEMPERATURE,
        target_entropy=-1.0,
    )


update = jax.jit(learner().update)


@pytest.fixture(scope="module")
def world_model():
    return make_world_model()


@pytest.fixture(scope="module")
def state() -> SoftActorCritic:
    """With targets that differ from the critics, and stddevs around 1: at 5 nearly every action is -1 or 1."""
    made, other = (learner().init(10, A, nnx.Rngs(seed)) for seed in (0, 1))
    bias = made.actor.net.layers[-1].bias
    assert bias is not None
    bias[...] = bias[...].at[A:].add(-4.5)
    return made._replace(targets=other.critics)


def make_x() -> Factor:
    rng = np.random.default_rng(0)
    return Factor(*(jnp.asarray(rng.normal(size=(T, B, n)), jnp.float32) for n in (6, 4)))


def make_batch(first: tuple[int, int] | None = None, terminal: tuple[int, int] | None = None) -> Batch:
    """All one episode but for a first or a terminal row (t, b)."""
    rng = np.random.default_rng(1)
    is_first, is_terminal = np.zeros((2, T, B), bool)
    for flags, row in ((is_first, first), (is_terminal, terminal)):
        if row is not None:
            flags[row] = True
    return Batch(
        observation=np.zeros((T, B, 16, 16, 3), np.uint8),
        action=rng.uniform(-1, 1, (T, B, A)).astype(np.float32),
        reward=rng.normal(size=(T, B)).astype(np.float32),
        is_first=is_first,
        is_terminal=is_terminal,
        factors={},
    )


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, A)).astype(np.float32)


# The formulas, in float64


def numpy_mlp(net, inputs: np.ndarray) -> np.ndarray:
    hidden = inputs
    for layer in net.layers:
        hidden = hidden @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias[...], np.float64)
        if layer is not net.layers[-1]:
            hidden = np.where(hidden > 0, hidden, np.expm1(np.minimum(hidden, 0)))
    return hidden


def numpy_q(critics, x: Factor, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inputs = np.concatenate([np.asarray(x.features, np.float64), action], axis=-1)
    return numpy_mlp(critics.first, inputs)[:, 0], numpy_mlp(critics.second, inputs)[:, 0]


def numpy_policy(actor, x: Factor, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Action tanh(u) and its log-density, log N(u) - sum log(1 - tanh(u)^2)."""
    mean, raw = np.split(numpy_mlp(actor.net, np.asarray(x.features, np.float64)), 2, axis=-1)
    mean, stddev = 5 * np.tanh(mean / 5), np.logaddexp(0, raw + np.log(np.expm1(5))) + 1e-4
    u = mean + stddev * noise
    log_prob = -0.5 * noise**2.0 - np.log(stddev) - 0.5 * np.log(2 * np.pi) - np.log(1 - np.tanh(u) ** 2)
    return np.tanh(u), log_prob.sum(-1)


@pytest.fixture(scope="module")
def steps(world_model) -> Transitions:
    """Of a batch with a boundary and a termination."""
    return transitions(world_model, make_x(), make_batch(first=(2, 1), terminal=(3, 0)))


def numpy_target(state: SoftActorCritic, steps: Transitions, next_noise: np.ndarray) -> np.ndarray:
    action, log_prob = numpy_policy(state.actor, steps.next_x, next_noise)
    value = np.minimum(*numpy_q(state.targets, steps.next_x, action)) - TEMPERATURE * log_prob
    return np.asarray(steps.reward) + DISCOUNT * np.asarray(steps.goes_on) * value


def test_target_is_the_soft_value_of_the_next_state_by_the_target_critics(state, steps):
    target = jax.jit(learner().target)(state.actor, state.targets, TEMPERATURE, steps, noise(1))
    np.testing.assert_allclose(target, numpy_target(state, steps, noise(1)), rtol=1e-4, atol=1e-4)


def test_losses_are_their_formulas(state, steps):
    """Means over transitions within episodes: one of the twelve is across a boundary."""
    counts = np.arange(N) != 1 * B + 1
    np.testing.assert_array_equal(steps.weight, counts)
    target = numpy_target(state, steps, noise(1))
    errors = [q - target for q in numpy_q(state.critics, steps.x, np.asarray(steps.action))]
    expected = sum(0.5 * np.mean(error[counts] ** 2) for error in errors)
    got, _ = jax.jit(learner().critic_loss)(state.critics, steps, jnp.asarray(target, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4)

    action, log_prob = numpy_policy(state.actor, steps.x, noise(2))
    expected = np.mean((TEMPERATURE * log_prob - np.minimum(*numpy_q(state.critics, steps.x, action)))[counts])
    got, (got_log_prob, metrics) = jax.jit(learner().actor_loss)(
        state.actor, state.critics, TEMPERATURE, steps, noise(2)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    np.testing.assert_allclose(got_log_prob, log_prob, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(metrics["entropy"], -np.mean(log_prob[counts]), rtol=1e-4)

    expected = -np.log(TEMPERATURE) * np.mean(log_prob[counts] - A)
    got = jax.jit(learner().temperature_loss)(jnp.log(TEMPERATURE), steps, jnp.asarray(log_prob, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_next_action_and_its_log_probability_are_of_one_sample(state, steps):
    """So that the target holds the next policy's entropy, here by quadrature over each of its two dimensions.

    Scoring the current state's action under the next policy, as the reference does, has another expectation.
    """
    zero = jax.tree.map(jnp.zeros_like, state.targets)
    first = jax.tree.map(lambda v: v[:1], steps)
    draws = np.random.default_rng(3).normal(size=(4000, 1, A)).astype(np.float32)
    targets = jax.jit(jax.vmap(lambda e: learner().target(state.actor, zero, TEMPERATURE, first, e)))(draws)

    def density(x: Factor, u: np.ndarray) -> np.ndarray:
        base = state.actor(x)
        mean, stddev = (np.asarray(v, np.float64)[0, :, None] for v in (base.mean, base.stddev))
        return np.exp(-0.5 * ((u - mean) / stddev) ** 2) / (stddev * np.sqrt(2 * np.pi))

    u = np.linspace(-15, 15, 20001)[None]
    cell, slope = u[0, 1] - u[0, 0], 1 / np.cosh(u) ** 2
    current, following = density(first.x, u), density(first.next_x, u)
    log_following = np.log(following + 1e-300) - np.log(slope)  # the density of tanh(u)
    entropy, cross_entropy = (-np.sum(p * log_following) * cell for p in (following, current))
    expected, reference = (float(first.reward[0]) + DISCOUNT * TEMPERATURE * h for h in (entropy, cross_entropy))
    error = float(np.std(targets)) / np.sqrt(len(draws))
    assert abs(expected - reference) > 20 * error
    assert abs(float(np.mean(targets)) - expected) < 4 * error


# Which transitions, and which rewards


def test_action_and_reward_are_those_of_the_row_they_led_to(world_model):
    x, batch = make_x(), make_batch()
    steps = transitions(world_model, x, batch)
    for t in range(T - 1):
        rows = slice(t * B, (t + 1) * B)
        np.testing.assert_array_equal(steps.x.features[rows], x.features[t])
        np.testing.assert_array_equal(steps.next_x.features[rows], x.features[t + 1])
        np.testing.assert_array_equal(steps.action[rows], batch.action[t + 1])
        after = jax.tree.map(lambda v, t=t: v[t + 1], x)
        np.testing.assert_allclose(steps.reward[rows], world_model.x_reward(after), rtol=1e-5)


def test_rewards_are_the_model_s_own_not_the_replay_s(world_model, state):
    batch = make_batch()
    once = update(state, world_model, make_x(), batch, jax.random.key(0))[0]
    again = update(state, world_model, make_x(), batch._replace(reward=batch.reward + 1), jax.random.key(0))[0]
    jax.tree.map(np.testing.assert_array_equal, once, again)


def differ(a: Any, b: Any) -> bool:
    return any(not np.array_equal(v, w) for v, w in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("first", [(2, 1), None])
def test_no_transition_crosses_into_another_episode(first, world_model, state):
    """What led to a first row can be anything; without the boundary it is learned from."""
    batch, x = make_batch(first=first), make_x()
    action = batch.action.copy()
    action[2, 1] = -action[2, 1]
    once, again = (
        update(state, world_model, x, made, jax.random.key(0))[0] for made in (batch, batch._replace(action=action))
    )
    assert differ(once, again) == (first is None)


def test_all_boundaries_teach_nothing(world_model, state):
    batch = make_batch()._replace(is_first=np.ones((T, B), bool))
    _, metrics = update(state, world_model, make_x(), batch, jax.random.key(0))
    assert float(metrics["critic_loss"]) == float(metrics["actor_loss"]) == 0
    assert float(metrics["critic_grad_norm"]) == float(metrics["actor_grad_norm"]) == 0


def test_nothing_follows_a_terminal_state(world_model, state):
    steps = transitions(world_model, make_x(), make_batch(terminal=(3, 0)))
    target = learner().target(state.actor, state.targets, TEMPERATURE, steps, noise(1))
    ended = np.arange(N) == 2 * B
    np.testing.assert_array_equal(np.asarray(target == steps.reward), ended)


# The update


def test_update_is_one_step_of_each_in_order(world_model, state):
    """Critics, actor through the new critics, temperature, targets towards the new critics by tau; then repeatable."""
    x, batch, key = make_x(), make_batch(), jax.random.key(5)
    after, metrics = update(state, world_model, x, batch, key)
    jax.tree.map(np.testing.assert_array_equal, update(state, world_model, x, batch, key), (after, metrics))
    assert differ(after.actor, update(state, world_model, x, batch, jax.random.key(6))[0].actor)

    sac, steps = learner(), transitions(world_model, x, batch)
    first, second = (jax.random.normal(k, (N, A)) for k in jax.random.split(key))
    target = sac.target(state.actor, state.targets, TEMPERATURE, steps, second)

    def close(tree, expected):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), tree, expected)

    gradients, _ = jax.jit(jax.grad(sac.critic_loss, has_aux=True))(state.critics, steps, target)
    critics, _, norm = sac.critic_optimizer.step(state.critics, gradients, state.critic_moments)
    close((after.critics, metrics["critic_grad_norm"]), (critics, norm))
    (loss, (log_prob, _)), gradients = jax.jit(jax.value_and_grad(sac.actor_loss, has_aux=True))(
        state.actor, critics, TEMPERATURE, steps, first
    )
    actor, _, norm = sac.actor_optimizer.step(state.actor, gradients, state.actor_moments)
    close((after.actor, metrics["actor_grad_norm"], metrics["actor_loss"]), (actor, norm, loss))
    close(after.targets, jax.tree.map(lambda old, new: old + TAU * (new - old), state.targets, after.critics))
    rises = float(jnp.mean(log_prob)) > A  # the entropy is below its target, -A
    assert (float(after.log_temperature) > float(state.log_temperature)) == rises


@pytest.mark.parametrize(("raw_stddev", "rises"), [(-9.0, True), (-4.5, False)])
def test_temperature_seeks_the_target_entropy(raw_stddev, rises, world_model, state):
    """A narrow policy makes it rise, one with more entropy than -1 a dimension makes it fall."""
    last = state.actor.net.layers[-1]
    narrow = jax.tree.map(jnp.copy, state.actor)
    narrow.net.layers[-1].kernel[...] = last.kernel[...] * 0
    narrow.net.layers[-1].bias[...] = jnp.array([0.0] * A + [raw_stddev] * A)
    before = state._replace(actor=narrow)
    after, metrics = update(before, world_model, make_x(), make_batch(), jax.random.key(0))
    assert (float(metrics["entropy"]) < -A) == rises
    assert (float(after.log_temperature) > float(before.log_temperature)) == rises


def test_fresh_targets_are_the_critics_in_arrays_of_their_own():
    made = learner().init(10, A, nnx.Rngs(0))
    jax.tree.map(np.testing.assert_array_equal, made.targets, made.critics)
    np.testing.assert_allclose(made.log_temperature, np.log(TEMPERATURE), rtol=1e-6)
    pairs = zip(jax.tree.leaves(made.targets), jax.tree.leaves(made.critics), strict=True)
    assert all(a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer() for a, b in pairs)  # both are donated


def test_finds_the_best_action_of_a_bandit():
    """One step from a fixed state to a terminal one that shows the action; the reward is best at 0.5 and -0.3.

    Of a reward -k (a - best)^2 the best policy is a Gaussian of variance temperature / 2k, here one whose entropy is
    the target's -1 in each dimension.
    """

    class Bandit:
        def x_reward(self, x: Factor) -> jax.Array:
            return -10 * jnp.sum((x.state - jnp.array([0.5, -0.3])[None]) ** 2, axis=-1)

    sac, bandit, size = replace(learner(learning_rate=1e-2), critic_widths=[32, 32]), Bandit(), 64

    def body(state, key):
        action_key, update_key = jax.random.split(key)
        action = jax.random.uniform(action_key, (2, size, A), minval=-1, maxval=1)
        x = Factor(jnp.zeros((2, size, 1)), jnp.stack([jnp.zeros((size, A)), action[1]]))
        batch = Batch(
            observation=np.zeros((2, size, 0), np.uint8),
            action=action,  # type: ignore[arg-type]
            reward=np.zeros((2, size), np.float32),
            is_first=np.zeros((2, size), bool),
            is_terminal=np.array([[False] * size, [True] * size]),
            factors={},
        )
        return sac.update(state, bandit, x, batch, update_key)  # type: ignore[arg-type]

    keys = jax.random.split(jax.random.key(0), 1000)
    made, metrics = jax.jit(lambda s: jax.lax.scan(body, s, keys))(sac.init(1 + A, A, nnx.Rngs(0)))
    policy = made.actor(Factor(jnp.zeros((1, 1)), jnp.zeros((1, A))))
    np.testing.assert_allclose(np.tanh(policy.mean[0]), [0.5, -0.3], atol=0.1)
    last = {name: float(np.mean(values[-100:])) for name, values in metrics.items()}
    np.testing.assert_allclose(last["entropy"], -A, atol=0.2)
    variance = np.exp(2 * -1.0) / (2 * np.pi * np.e)
    np.testing.assert_allclose(last["temperature"], 2 * 10 * variance, rtol=0.25)


# As a part of the whole


@pytest.mark.parametrize("policy", ["sac", "sac_walker"])
def test_paper_size_has_the_paper_s_settings(policy):
    """Sec. B.1.3; Walker Walk has a third of the learning rate, and clipping."""
    made = compose(["size=paper", f"policy={policy}"]).policy
    assert made.name == "sac"
    rate, clip = (3e-4, None) if policy == "sac" else (1e-4, 100)
    assert {made.actor_learning_rate, made.critic_learning_rate, made.temperature_learning_rate} == {rate}
    assert (made.clip_norm, made.tau, made.discount, made.exploration_noise) == (clip, 0.005, 0.99, 0.3)
    assert (made.initial_temperature, made.target_entropy) == (1, -1)
    assert (made.actor_widths, made.critic_widths) == ([400] * 4, [400] * 3)


def test_a_checkpoint_holds_all_that_the_next_update_needs(tmp_path):
    agent, batches, key = (
        Agent(compose(["size=debug", "policy=sac", "model=x"]), A),
        make_batches(2),
        jax.random.key(0),
    )
    first, second = (jax.tree.map(lambda v, k=k: v[k : k + 1], batches) for k in (0, 1))
    state, _ = agent.train_chunk(agent.create(jax.random.key(0)), first, key)
    path = checkpoint.save(tmp_path, 1, state, {}, keep=1)
    loaded = checkpoint.load_state(path, agent.create(jax.random.key(1)))
    straight, metrics = agent.train_chunk(state, second, key)
    resumed, _ = agent.train_chunk(loaded, second, key)
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)
    assert metrics.keys() <= METRICS.keys() and all(np.isfinite(value) for value in metrics.values())


def test_a_run_goes_on_exactly(tmp_path):
    """One debug run, and again from its checkpoint after the first updates, as if it had been killed there."""
    command = ["size=debug", "policy=sac", "model=x", "env.task=cartpole_balance", "env.action_repeat=10"]
    config = compose([*command, "render.backend=ray", "train.env_steps=1250", f"run_dir={tmp_path / 'run'}"])

    def train() -> dict[str, np.ndarray]:
        loop.train(config)
        return load_file(checkpoint.all_of(tmp_path / "run")[-1] / "state.safetensors")

    whole = train()
    after_the_first, last = checkpoint.all_of(tmp_path / "run")
    assert checkpoint.load_progress(after_the_first)["updates"] == 5
    shutil.rmtree(last)
    resumed = train()
    assert whole.keys() == resumed.keys() and whole["0/updates"] == 10
    for name, array in whole.items():
        np.testing.assert_array_equal(array, resumed[name], err_msg=name)
    metrics = {name for line in read_metrics(tmp_path / "run") for name in line}
    assert {"policy/critic_loss", "policy/temperature", "evaluate/return_mean"} <= metrics
