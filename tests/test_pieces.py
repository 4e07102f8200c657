"""What today's learners have and the paper does not: each piece against its formula in numpy, and off by default."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_actor_critic import A, H, N, learner
from test_world_model import EQUATION_4, B, T, loss_of, make_batch, numpy_kl
from test_world_model import make as make_world_model

from denoised_mdp.agent import Agent
from denoised_mdp.agent.actor_critic import Actor, lambda_return
from denoised_mdp.agent.build import model_learner
from denoised_mdp.agent.critic import BINS, VALUES, Twins, symexp, symlog, two_hot, value
from denoised_mdp.agent.shift import shifted
from denoised_mdp.config.compose import compose
from denoised_mdp.errors import UserError
from denoised_mdp.model.balance import Balance
from denoised_mdp.model.distributions import ClippedNormal, Normal
from denoised_mdp.model.latent import Factor, Latent
from denoised_mdp.model.nets import GRU, MLP, Activation, RMSNorm, Style
from denoised_mdp.model.optimizer import Adam
from denoised_mdp.model.reconstruction import one_in
from denoised_mdp.model.reward import NormalizedLearner
from denoised_mdp.model.world_model import Objective
from denoised_mdp.training.prefill import LONGEST, PREFILLS

Q = Normal(jnp.array([[0.3, -1.0], [0.1, 0.0]]), jnp.array([[0.5, 0.8], [1.0, 1.1]]))
P = Normal(jnp.array([[0.0, 1.0], [0.0, 0.1]]), jnp.array([[1.5, 1.0], [1.0, 1.0]]))
FREE = 1.0  # of the two KLs one is above it, one below
MODERN = Style("rms", "silu")


def gradients(balance: Balance, free_nats: float):
    return jax.grad(lambda q, p: jnp.sum(balance.kl(q, p, free_nats)), argnums=(0, 1))(Q, P)


def test_a_balanced_kl_is_the_kl_with_free_nats_whatever_its_weights():
    kl = numpy_kl(Q, P)
    assert kl[0] > FREE > kl[1]
    for balance in (Balance(), Balance(2.0, 0.1, False)):
        np.testing.assert_allclose(balance.kl(Q, P, FREE), np.maximum(kl, FREE), rtol=1e-6)


def test_balance_weights_the_gradients_of_a_kl():
    to_q, to_p = jax.grad(lambda q, p: jnp.sum(q.kl(p)), argnums=(0, 1))(Q, P)
    weighted_q, weighted_p = gradients(Balance(prior=2.0, posterior=0.1), 0.0)
    for weighted, plain, weight in ((weighted_q, to_q, 0.1), (weighted_p, to_p, 2.0)):
        jax.tree.map(lambda a, b, w=weight: np.testing.assert_allclose(a, w * b, rtol=1e-5), weighted, plain)


def test_below_the_free_nats_the_prior_learns_if_asked_to_and_the_posterior_does_not():
    for floor_prior in (True, False):
        to_q, to_p = gradients(Balance(floor_prior=floor_prior), FREE)
        assert np.all(to_q.mean[1] == 0) and np.all(to_q.mean[0] != 0)
        assert np.any(to_p.mean[1] != 0) != floor_prior and np.all(to_p.mean[0] != 0)


def test_every_picture_is_decoded_as_often():
    rows = jnp.arange(T * 4).reshape(T, 4)
    assert one_in(rows, 1) is rows
    chosen = np.asarray(one_in((rows, rows[..., None]), 2)[0])
    assert len(chosen) == T * 4 // 2
    assert (np.bincount(chosen // 4) == 2).all() and (np.bincount(chosen % 4) == T // 2).all()


def test_decoding_some_pictures_is_the_error_of_those():
    model, batch = make_world_model(), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))
    _, (s, metrics) = loss_of(model, batch, noise, EQUATION_4._replace(decode_every=B))
    picture = np.asarray(jax.jit(lambda m: m.decode(s))(model), np.float64)
    error = ((batch.observation / 255 - 0.5 - picture) ** 2).mean((-3, -2, -1))
    decoded = np.add.outer(np.arange(T), np.arange(B)) % B == 0
    np.testing.assert_allclose(metrics["observation_mse"], error[decoded].mean(), rtol=1e-5)


def test_the_penalty_of_y_s_reward_is_its_square():
    model, batch = make_world_model(), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))
    objective = EQUATION_4._replace(reward_weight=3.0)
    plain, (s, _) = loss_of(model, batch, noise, objective)
    penalised, _ = loss_of(model, batch, noise, objective._replace(reward_y_penalty=400.0))
    of_y = np.asarray(jax.jit(lambda m: m.y_reward(s.y))(model))
    np.testing.assert_allclose(penalised - plain, 3 * 0.5 * 400 * np.mean(of_y**2), rtol=1e-3)


@pytest.mark.parametrize("scale", [2.0, 1e-3])  # the second is below the least variance
def test_a_normalised_reward_weighs_by_what_is_not_explained(scale):
    model, batch = make_world_model(), make_batch()
    batch = batch._replace(reward=scale * np.random.default_rng(3).normal(size=(T, B)).astype(np.float32))
    noise = model.transition.noise(jax.random.key(1), (T, B))
    objective = EQUATION_4._replace(reward_weight=50.0)
    fixed, (_, metrics) = loss_of(model, batch, noise, objective)
    normalised, _ = loss_of(model, batch, noise, objective._replace(normalize_reward=True))
    factor = 1 / max(batch.reward.var(), 1e-3)
    np.testing.assert_allclose(normalised - fixed, 50 * (factor - 1) * metrics["reward_loss"], rtol=1e-3)


@dataclasses.dataclass(frozen=True)
class Weighing:
    """A learner of nothing, which reports the weight of the reward."""

    objective: Objective

    def init(self, world_model):
        return world_model

    def update(self, world_model, moments, batch, noise):
        return world_model, moments, noise, {"weight": self.objective.reward_weight}


def test_a_running_variance_is_that_of_all_batches_by_their_age():
    """Batches without a reward, in which a variance of their own would be almost 0, weigh as those with one."""
    rng, decay, batch, noise = np.random.default_rng(0), 0.8, make_batch(), Latent(*jnp.zeros((3, T, B, 1)))
    rewards = [(rng.uniform(size=(T, B)) < chance).astype(np.float32) for chance in (0.3, 0.0, 0.0, 0.5)]
    normalized = NormalizedLearner(Weighing(EQUATION_4._replace(reward_weight=50.0)), decay)
    moments = normalized.init(None)
    for n, reward in enumerate(rewards):
        _, moments, _, metrics = normalized.update(None, moments, batch._replace(reward=reward), noise)
        ages = np.repeat(decay ** np.arange(n, -1, -1), T * B)
        seen = np.ravel(rewards[: n + 1])
        mean = np.average(seen, weights=ages)
        expected = 50 / np.average((seen - mean) ** 2, weights=ages)
        np.testing.assert_allclose(metrics["weight"], expected, rtol=1e-5)


def test_the_variance_of_a_batch_counts_between_a_share_of_the_running_one_and_all_of_it():
    rng, floor, noise = np.random.default_rng(0), 0.25, Latent(*jnp.zeros((3, T, B, 1)))
    normalized = NormalizedLearner(Weighing(EQUATION_4._replace(reward_weight=50.0)), 0.9, floor)
    alone = NormalizedLearner(Weighing(EQUATION_4._replace(reward_weight=50.0)), 0.9)
    moments, met = normalized.init(None), []
    for scale in (1.0, 0.1, 0.8, 2.0):
        batch = make_batch()._replace(reward=(scale * rng.normal(size=(T, B))).astype(np.float32))
        *_, plain = alone.update(None, moments, batch, noise)
        _, moments, _, metrics = normalized.update(None, moments, batch, noise)
        running = 50 / plain["weight"]
        met.append(float(batch.reward.var() / running))
        np.testing.assert_allclose(metrics["weight"], 50 / (np.clip(met[-1], floor, 1) * running), rtol=1e-5)
    assert met[1] < floor < met[2] < 1 < met[3], "all three cases"


def test_a_running_variance_without_any_reward_is_the_least():
    normalized = NormalizedLearner(Weighing(EQUATION_4), 0.99)
    batch = make_batch()._replace(reward=np.zeros((T, B), np.float32))
    noise = Latent(*jnp.zeros((3, T, B, 1)))
    *_, metrics = normalized.update(None, normalized.init(None), batch, noise)
    np.testing.assert_allclose(metrics["weight"], 1e3, rtol=1e-5)  # 1 over the least variance


@pytest.mark.parametrize("model", ["xy", "tia"])
def test_each_model_s_learner_can_be_normalised(model):
    settings = ["size=debug", f"model={model}", "model.normalize_reward=true"]
    of_batch, running = (
        model_learner(compose([*settings, f"model.reward_variance_decay={decay}"]).model) for decay in (0, 0.9)
    )
    assert of_batch.objective.normalize_reward
    assert isinstance(running, NormalizedLearner) and not running.objective.normalize_reward
    assert running.objective._replace(normalize_reward=True) == of_batch.objective


def test_rms_norm_and_activation():
    norm, inputs = RMSNorm(5), np.random.default_rng(0).normal(size=(3, 5))
    norm.scale[...] = jnp.arange(1.0, 6.0)
    expected = inputs / np.sqrt((inputs**2).mean(-1, keepdims=True) + 1e-6) * np.arange(1, 6)
    np.testing.assert_allclose(norm(jnp.asarray(inputs)), expected, rtol=1e-5)
    activation = Activation(MODERN, 5)
    plain = inputs / np.sqrt((inputs**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(activation(jnp.asarray(inputs)), plain / (1 + np.exp(-plain)), rtol=1e-5)


def test_a_normalised_gru_is_dreamer_v2_s():
    gru, rng = GRU(3, 4, nnx.Rngs(0), norm="rms"), np.random.default_rng(0)
    inputs, hidden = rng.normal(size=(2, 3)), rng.normal(size=(2, 4))
    gates = np.asarray(gru.input(jnp.asarray(inputs)) + gru.hidden(jnp.asarray(hidden)))
    gates = gates / np.sqrt((gates**2).mean(-1, keepdims=True) + 1e-6)
    reset, new, update = np.split(gates, 3, axis=-1)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    update = sigmoid(update - 1)
    expected = update * np.tanh(sigmoid(reset) * new) + (1 - update) * hidden
    np.testing.assert_allclose(gru(jnp.asarray(inputs), jnp.asarray(hidden)), expected, rtol=1e-4, atol=1e-6)


def test_heads_start_at_the_scale_asked_for():
    inputs = jnp.ones((2, 3))
    full, tenth, zero = (MLP(3, [4], 2, nnx.Rngs(0), output_scale=scale)(inputs) for scale in (1.0, 0.1, 0.0))
    np.testing.assert_allclose(tenth, 0.1 * full, rtol=1e-5)
    assert np.all(zero == 0) and np.any(full != 0)


def test_warmup_raises_the_learning_rate_from_nothing():
    adam, parameters = Adam(1.0, epsilon=1e-8, clip_norm=None, warmup=4), jnp.zeros(())
    moments, steps = adam.init(parameters), []
    for _ in range(6):
        after, moments, _ = adam.step(parameters, jnp.ones(()), moments)
        steps.append(float(parameters - after))
        parameters = after
    np.testing.assert_allclose(steps, [0, 0.25, 0.5, 0.75, 1, 1], atol=1e-5)


def test_two_bins_have_the_value_as_their_mean():
    values = jnp.array([-700.0, -0.3, 0.0, 1.0, 35.0, 2000.0])
    np.testing.assert_allclose(symexp(symlog(values)), values, rtol=1e-4)
    weights = np.asarray(two_hot(values))
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert ((weights > 0).sum(-1) <= 2).all()
    np.testing.assert_allclose(np.sign(values) * np.expm1(np.abs(weights @ BINS)), values, rtol=1e-3, atol=1e-5)
    assert two_hot(jnp.array([1e6]))[0, -1] == 1  # beyond the last bin


def test_a_two_hot_value_and_its_likelihood():
    outputs, returns = jax.random.normal(jax.random.key(0), (3, len(BINS))), jnp.array([0.5, 30.0, -2.0])
    probabilities = np.exp(np.asarray(outputs, np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    mean = probabilities @ BINS
    np.testing.assert_allclose(
        VALUES["two_hot"].mean(outputs), np.sign(mean) * np.expm1(np.abs(mean)), rtol=1e-4, atol=1e-5
    )
    nll = -(np.asarray(two_hot(returns)) * np.log(probabilities)).sum(-1)
    np.testing.assert_allclose(VALUES["two_hot"].nll(outputs, returns), nll, rtol=1e-4)


def test_a_clipped_normal_is_bounded_and_its_gradient_is_not():
    policy = ClippedNormal(jnp.array([[0.9, 0.0]]), jnp.array([[0.5, 0.1]]))
    noise = jnp.array([[1.0, 1.0]])
    action, log_prob = policy.sample_and_log_prob(noise)
    np.testing.assert_allclose(action, [[1.0, 0.1]], rtol=1e-6)
    expected = -0.5 * 2 - np.log(0.5 * 0.1) - np.log(2 * np.pi)
    np.testing.assert_allclose(log_prob, [expected], rtol=1e-5)
    np.testing.assert_allclose(policy.score(noise), log_prob, rtol=1e-6)
    np.testing.assert_allclose(policy.entropy(noise), [np.log(0.05) + np.log(2 * np.pi) + 1], rtol=1e-5)
    slope = jax.grad(lambda mean: policy._replace(mean=mean).sample_and_log_prob(noise)[0].sum())(policy.mean)
    np.testing.assert_array_equal(slope, [[1.0, 1.0]])
    np.testing.assert_array_equal(policy.mode(jax.random.key(0), 100), policy.mean)


def test_a_bounded_actor_neither_starts_nor_ends_deterministic():
    actor = Actor(10, [8], A, nnx.Rngs(0), kind="clipped_normal", style=MODERN, output_scale=0.0)
    policy = actor(Factor(jnp.ones((2, 6)), jnp.ones((2, 4))))
    assert np.all(policy.mean == 0)
    np.testing.assert_allclose(policy.stddev, 0.1 + 0.9 / (1 + np.exp(-2)), rtol=1e-5)
    assert actor.net.layers[-1].bias is not None
    actor.net.layers[-1].bias[...] = -100 * jnp.ones(2 * A)
    np.testing.assert_allclose(actor(Factor(jnp.ones((2, 6)), jnp.ones((2, 4)))).stddev, 0.1, rtol=1e-5)


def modern(**changes):
    return dataclasses.replace(learner(), **changes)


X = Factor(jnp.linspace(-1, 1, T * B * 6).reshape(T, B, 6), jnp.linspace(1, -1, T * B * 4).reshape(T, B, 4))
NOISES = (jax.random.normal(jax.random.key(0), (H, N, A)), jax.random.normal(jax.random.key(1), (H, N, 4)))
STARTS = Factor(X.belief[0], X.state[0])


def test_returns_are_divided_by_their_range_if_it_is_above_one():
    world_model, dynamics = make_world_model(), modern(normalize_returns=True)
    state = dynamics.init(10, A, nnx.Rngs(1))

    def loss(return_range):
        return jax.jit(dynamics.actor_loss)(state.actor, state.critic, world_model, STARTS, *NOISES, return_range)

    (plain, (_, returns, _, metrics)), (small, _), (large, _) = (loss(jnp.array(r)) for r in (1.0, 0.5, 8.0))
    assert plain == small
    np.testing.assert_allclose(large, plain / 8, rtol=1e-5)
    low, high = np.quantile(np.asarray(returns), [0.05, 0.95])
    np.testing.assert_allclose(metrics["return_range"], high - low, rtol=1e-4)
    after, metrics = jax.jit(dynamics.update)(state, world_model, X, make_batch(), jax.random.key(0))
    np.testing.assert_allclose(after.return_range, 1 + 0.01 * (metrics["return_range"] - 1), rtol=1e-5)


def test_reinforce_weights_scores_with_advantages():
    world_model, dynamics = make_world_model(), modern(gradient="reinforce", actor_kind="clipped_normal")
    state = dynamics.init(10, A, nnx.Rngs(1))
    run = jax.jit(lambda w: (dynamics.actor_loss(state.actor, state.critic, w, STARTS, *NOISES), w.x_reward(STARTS)))
    (loss, (dreamt, returns, weights, _)), first_reward = jax.tree.map(np.asarray, run(world_model))
    before = jnp.concatenate([STARTS.features[None], dreamt.x.features[: H - 2]])
    values = np.asarray(state.critic(before)[..., 0])
    rewards = np.concatenate([first_reward[None], np.asarray(jax.jit(world_model.x_reward)(dreamt.x))[: H - 2]])
    advantage = rewards + 0.9 * returns - values
    np.testing.assert_allclose(loss, -np.mean(weights * advantage * dreamt.score[:-1]), rtol=1e-4)


def test_a_reinforced_actor_learns_though_no_gradient_passes_the_dynamics():
    world_model = jax.tree.map(jax.lax.stop_gradient, make_world_model())
    dynamics = modern(gradient="reinforce", actor_kind="clipped_normal")
    state = dynamics.init(10, A, nnx.Rngs(1))
    history = []
    update = jax.jit(dynamics.update)
    for i in range(200):
        state, metrics = update(state, world_model, X, make_batch(), jax.random.key(i))
        history.append(float(metrics["imagined_reward"]))
    assert np.mean(history[-20:]) > np.mean(history[:20])


def test_the_slow_critic_follows_and_is_a_second_target():
    world_model, dynamics = make_world_model(), modern(slow_critic_weight=0.7, slow_critic_rate=0.1, values="two_hot")
    state = dynamics.init(10, A, nnx.Rngs(1))
    slow = jax.tree.map(lambda v: v + 0.1, state.slow_critic)
    state = state._replace(slow_critic=slow)
    after, _ = jax.jit(dynamics.update)(state, world_model, X, make_batch(), jax.random.key(0))
    jax.tree.map(
        lambda a, s, c: np.testing.assert_allclose(a, 0.9 * s + 0.1 * c, rtol=1e-4, atol=1e-6),
        after.slow_critic,
        slow,
        after.critic,
    )
    returns, weights = jnp.ones((H - 1, N)), jnp.full((H - 1, N), 0.5)
    features = jax.random.normal(jax.random.key(2), (H, N, 10))
    x, values = Factor(features[..., :6], features[..., 6:]), VALUES["two_hot"]
    with_slow, without = (
        dynamics.critic_loss(state.critic, x, returns, weights, critic) for critic in (state.slow_critic, None)
    )
    assert state.slow_critic is not None
    outputs = state.critic(features)[:-1]
    target = values.mean(state.slow_critic(features)[:-1])
    np.testing.assert_allclose(with_slow - without, 0.7 * 0.5 * jnp.mean(values.nll(outputs, target)), rtol=1e-3)


def test_of_two_critics_the_smaller_value_counts_and_each_learns():
    world_model, dynamics = make_world_model(), modern(critics=2, values="two_hot", slow_critic_weight=1.0)
    state, values = dynamics.init(10, A, nnx.Rngs(1)), VALUES["two_hot"]
    assert isinstance(state.critic, Twins)
    features = jax.random.normal(jax.random.key(2), (H, N, 10))
    both = [np.asarray(values.mean(critic(features))) for critic in (state.critic.first, state.critic.second)]
    least = np.asarray(value(values, state.critic, features))
    np.testing.assert_allclose(least, np.minimum(*both), rtol=1e-6)
    assert 0 < (least == both[0]).mean() < 1, "either is the smaller one somewhere"

    x, returns, weights = Factor(features[..., :6], features[..., 6:]), jnp.ones((H - 1, N)), jnp.full((H - 1, N), 0.5)
    alone = [dynamics.critic_loss(critic, x, returns, weights) for critic in (state.critic.first, state.critic.second)]
    np.testing.assert_allclose(dynamics.critic_loss(state.critic, x, returns, weights), np.mean(alone), rtol=1e-5)

    after, metrics = jax.jit(dynamics.update)(state, world_model, X, make_batch(), jax.random.key(0))
    for one, before in zip(
        (after.critic.first, after.critic.second), (state.critic.first, state.critic.second), strict=True
    ):
        assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(before), strict=True))
    assert np.isfinite(metrics["critic_loss"])


def test_replayed_states_are_worth_the_lambda_return_along_their_sequence():
    world_model, dynamics = make_world_model(), modern()
    critic = dynamics.init(10, A, nnx.Rngs(1)).critic
    values, rewards = critic(X.features)[..., 0], jax.jit(world_model.x_reward)(X)
    returns = lambda_return(rewards, values, jnp.full((T, B), 0.9), 0.8)
    expected = np.mean(0.5 * (np.asarray(values[:-1]) - np.asarray(returns)) ** 2 + 0.5 * np.log(2 * np.pi))
    loss = jax.jit(lambda first: dynamics.replay_critic_loss(critic, world_model, X, first, None))
    np.testing.assert_allclose(loss(jnp.zeros((T, B), bool)), expected, rtol=1e-5)

    whole = jnp.zeros((T, B), bool).at[2].set(True)  # two episodes, of rows 0 and 1, and from row 2 on
    parts = [lambda_return(rewards[rows], values[rows], jnp.full((2, B), 0.9), 0.8) for rows in (slice(2), slice(2, 4))]
    errors = [np.asarray(values[row] - part[0]) for row, part in zip((0, 2), parts, strict=True)]
    expected = sum(np.sum(0.5 * e**2 + 0.5 * np.log(2 * np.pi)) for e in errors) / ((T - 1) * B)
    np.testing.assert_allclose(loss(whole), expected, rtol=1e-5)


def test_nothing_is_imagined_from_the_rows_of_burn_in():
    world_model = make_world_model()
    late = jax.tree.map(lambda v: v[2:], X)
    state = learner().init(10, A, nnx.Rngs(1))
    (_, burnt), (_, cut) = (
        jax.jit(of.update)(state, world_model, x, make_batch(), jax.random.key(0))
        for of, x in ((modern(burn_in=2), X), (learner(), late))
    )
    np.testing.assert_allclose(burnt["actor_loss"], cut["actor_loss"], rtol=1e-6)


@pytest.mark.parametrize("model", ["xyz", "tia"])
def test_categorical_states_learn_and_act(model):
    parts = [f"model.{part}.state=8" for part in ("x", "y", "z")[: 2 if model == "tia" else 3]]
    states = ["model.states=categorical", "model.classes=4", *parts]
    agent = Agent(compose(["size=debug", f"model={model}", *states, "train.batch_size=2"]), A)
    state, rng = agent.create(jax.random.key(0)), np.random.default_rng(0)
    batch = make_batch()._replace(observation=rng.integers(0, 256, (T, B, 64, 64, 3), dtype=np.uint8))
    step, losses = jax.jit(agent.train_step), []
    for _ in range(20):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["model/observation_mse"]))
    assert losses[-1] < losses[0]
    seen = batch.observation[0, :1], np.ones(1, bool), jax.random.key(2)
    after = agent.act(agent.acting(state), agent.initial(1), *seen, explore=True)
    x = np.asarray(after.latent.x.state).reshape(2, 4)
    np.testing.assert_allclose(np.sort(x), np.tile([0, 0, 0, 1], (2, 1)), atol=1e-6)


@pytest.mark.parametrize("policy", ["dynamics", "sac"])
def test_a_policy_waits_for_the_model(policy):
    config = compose(["size=debug", f"policy={policy}", "train.policy_after=1", "train.batch_size=2"])
    agent = Agent(config, A)
    state, rng = agent.create(jax.random.key(0)), np.random.default_rng(0)
    batch = make_batch()._replace(observation=rng.integers(0, 256, (T, B, 64, 64, 3), dtype=np.uint8))
    step = jax.jit(agent.train_step)
    first, _ = step(state, batch, jax.random.key(1))
    second, _ = step(first, batch, jax.random.key(2))
    same = lambda a, b: all(map(np.array_equal, *map(jax.tree.leaves, (a, b))))  # noqa: E731
    assert same(first.policy, state.policy) and not same(first.world_model, state.world_model)
    assert not same(second.policy, first.policy)


def test_a_sequence_is_shifted_as_a_whole_within_its_repeated_border():
    pixels, sequences = 2, 200
    pictures = np.random.default_rng(0).integers(0, 256, (3, sequences, 6, 6, 3), dtype=np.uint8)
    moved = np.asarray(shifted(pictures, pixels, jax.random.key(0)))
    padded = np.pad(pictures, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    corners = list(itertools.product(range(2 * pixels + 1), repeat=2))
    cuts = np.stack([padded[:, :, down : down + 6, right : right + 6] for down, right in corners])
    equal = np.all(cuts == moved, axis=(1, 3, 4, 5))  # [corner, sequence], in every picture of the sequence
    assert np.all(equal.sum(0) == 1)
    counts = equal.sum(1)  # 8 of each corner on average
    assert counts.min() > 0 and counts.max() < 25


@pytest.mark.parametrize("pixels", [0, 2])
def test_each_update_sees_pictures_shifted_anew(pixels, monkeypatch):
    agent, key = Agent(compose(["size=debug", f"train.random_shift={pixels}"]), 1), jax.random.key(0)
    batch = make_batch()
    batches = jax.tree.map(lambda v: np.stack([v, v]), batch)
    seen = []

    def watched(state, batch, key):
        seen.append(batch.observation)
        return state._replace(updates=state.updates + 1), {}

    monkeypatch.setattr(agent, "train_step", watched)
    with jax.disable_jit():
        agent._train_chunk(agent.create(key), batches, key)
    assert len(seen) == 2
    for update, found in enumerate(seen):
        expected = shifted(batch.observation, pixels, jax.random.fold_in(jax.random.fold_in(key, update), 2))
        np.testing.assert_array_equal(found, expected if pixels else batch.observation)
    assert np.array_equal(*seen) == (pixels == 0)


def test_a_varied_force_is_held_for_two_to_sixteen_steps():
    act = PREFILLS["varied"]
    steps = np.stack([act(jax.random.key(0), 2 * t, 20, (50, 2)) for t in range(40 * LONGEST)])
    assert (np.abs(steps) <= 1).all() and 0.4 < (np.abs(steps) == 1).mean() < 0.6
    changes = np.flatnonzero((steps[1:] != steps[:-1]).any((1, 2))) + 1
    assert set(np.diff(changes)) == {2, 4, 8, 16}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.decode_every=3", "must divide train.batch_size=16"),
        ("policy.burn_in=32", "must be below train.batch_length=32"),
        ("policy.start_every=600", "must not exceed 448, the states"),
        ("policy.critic=three_hot", "two_hot"),
        ("model.norm=batch", "rms"),
        ("train.random_shift=40", "train.random_shift"),
    ],
)
def test_settings_that_do_not_fit_are_refused(override, told):
    with pytest.raises(UserError, match=told):
        compose(["size=small", override])
