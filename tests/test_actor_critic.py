"""Learning in imagination: the lambda-return against its recursion, and where gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_world_model import make as make_world_model
from test_world_model import make_batch

from denoised_mdp.agent.actor_critic import DynamicsLearner, discount_weights, dream, lambda_return
from denoised_mdp.model.latent import Factor
from denoised_mdp.model.optimizer import Adam

H, N, A = 5, 3, 2


def learner(*, start_every: int = 1, entropy: float = 0.0) -> DynamicsLearner:
    adam = Adam(1e-3, epsilon=1e-7, clip_norm=100)
    return DynamicsLearner(
        actor_widths=[8],
        critic_widths=[8],
        actor_optimizer=adam,
        critic_optimizer=adam,
        discount=0.9,
        lambda_=0.8,
        horizon=H,
        start_every=start_every,
        entropy=entropy,
    )


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_lambda_return_is_its_recursion(lambda_):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, H, N))
    discounts = rng.uniform(0.5, 1, size=(H, N))
    expected = np.zeros((H, N))
    expected[-1] = values[-1]
    for t in reversed(range(H - 1)):
        ahead = (1 - lambda_) * values[t + 1] + lambda_ * expected[t + 1]
        expected[t] = rewards[t] + discounts[t] * ahead
    got = lambda_return(jnp.asarray(rewards), jnp.asarray(values), jnp.asarray(discounts), lambda_)
    np.testing.assert_allclose(got, expected[:-1], rtol=1e-5)


def test_discount_weights_are_the_products_of_what_came_before():
    discounts = np.random.default_rng(0).uniform(0.5, 1, size=(H, N))
    expected = np.stack([discounts[:t].prod(0) for t in range(H - 1)])
    np.testing.assert_allclose(discount_weights(jnp.asarray(discounts)), expected, rtol=1e-6)


def test_dream_follows_the_prior_of_x_under_the_actor():
    world_model = make_world_model()
    state = learner().init(10, A, nnx.Rngs(1))
    x = Factor(jnp.ones((N, 6)), jnp.ones((N, 4)))
    action_noise = jax.random.normal(jax.random.key(0), (H, N, A))
    state_noise = jax.random.normal(jax.random.key(1), (H, N, 4))
    dreamt = jax.jit(dream)(state.actor, world_model, x, action_noise, state_noise)
    step = jax.jit(world_model.transition.x_step)
    for t in range(H):
        action, log_prob = state.actor(x).sample_and_log_prob(action_noise[t])
        belief, prior = step(x, action)
        x = Factor(belief, prior.at(state_noise[t]))
        np.testing.assert_allclose(dreamt.action[t], action, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(dreamt.score[t], log_prob, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(dreamt.entropy[t], -log_prob, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(dreamt.x.state[t], x.state, rtol=1e-4, atol=1e-5)


def test_actor_learns_through_the_dynamics_only():
    """With one imagined step after an action nothing reaches the actor if the dynamics ignore it."""
    world_model = make_world_model()
    state = learner().init(10, A, nnx.Rngs(1))
    x = Factor(jnp.ones((N, 6)), jnp.ones((N, 4)))
    noises = (jax.random.normal(jax.random.key(0), (H, N, A)), jax.random.normal(jax.random.key(1), (H, N, 4)))

    def gradient(model):
        g = jax.jit(jax.grad(learner().actor_loss, has_aux=True))(state.actor, state.critic, model, x, *noises)[0]
        return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(g))

    assert gradient(world_model) > 0
    kernel = world_model.transition.x_prior.embed.layers[0].kernel  # [state + action, hidden]
    kernel[...] = kernel[...].at[4:].set(0.0)
    assert gradient(world_model) == 0


def test_imagination_uses_x_and_its_reward_alone():
    world_model = make_world_model()
    state = learner().init(10, A, nnx.Rngs(1))
    x = Factor(jnp.ones((N, 6)), jnp.ones((N, 4)))
    noises = (jax.random.normal(jax.random.key(0), (H, N, A)), jax.random.normal(jax.random.key(1), (H, N, 4)))

    def loss(model):
        return learner().actor_loss(state.actor, state.critic, model, x, *noises)[0]

    gradient = jax.jit(jax.grad(loss))(world_model)
    uses = {
        name: any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(part))
        for name, part in {
            "x prior": gradient.transition.x_prior,
            "x reward": gradient.reward_x,
            "y prior": gradient.transition.y_prior,
            "z prior": gradient.transition.z_prior,
            "y reward": gradient.reward_y,
            "decoder": gradient.decoder,
        }.items()
    }
    assert {name for name, used in uses.items() if used} == {"x prior", "x reward"}


def test_update_improves_the_imagined_return_and_fits_the_value():
    world_model = make_world_model()
    dynamics = learner()
    state = dynamics.init(10, A, nnx.Rngs(1))
    x = Factor(jnp.ones((2, N, 6)), jnp.ones((2, N, 4)))
    update = jax.jit(dynamics.update)
    history = []
    for i in range(200):
        state, metrics = update(state, world_model, x, make_batch(), jax.random.key(i))
        history.append((float(metrics["actor_loss"]), float(metrics["critic_loss"])))
    first, last = np.mean(history[:20], axis=0), np.mean(history[-20:], axis=0)
    assert last[0] < first[0] and last[1] < first[1]


def test_start_every_thins_the_states_that_imagination_starts_from():
    world_model = make_world_model()
    x = Factor(jnp.arange(24.0).reshape(2, 2, 6), jnp.ones((2, 2, 4)))
    thin, rest = (learner(start_every=n) for n in (4, 1))
    state = thin.init(10, A, nnx.Rngs(1))
    alone = jax.tree.map(lambda v: v[:1, :1], x)
    _, thinned = jax.jit(thin.update)(state, world_model, x, make_batch(), jax.random.key(0))
    _, single = jax.jit(rest.update)(state, world_model, alone, make_batch(), jax.random.key(0))
    np.testing.assert_allclose(thinned["actor_loss"], single["actor_loss"], rtol=1e-5)


def test_entropy_is_rewarded_where_asked_for():
    world_model = make_world_model()
    x = Factor(jnp.ones((1, N, 6)), jnp.ones((1, N, 4)))
    state = learner().init(10, A, nnx.Rngs(1))
    losses = [
        jax.jit(learner(entropy=e).update)(state, world_model, x, make_batch(), jax.random.key(0))[1]
        for e in (0.0, 0.5)
    ]
    assert float(losses[0]["entropy"]) == float(losses[1]["entropy"])
    assert float(losses[0]["actor_loss"]) != float(losses[1]["actor_loss"])


def test_nothing_is_learned_from_beyond_an_episode_s_end():
    world_model = make_world_model(continue_head=True)
    assert world_model.continue_x is not None
    bias = world_model.continue_x.layers[-1].bias
    assert bias is not None
    bias[...] = bias[...] - 100.0  # every state is a last one
    state = learner().init(10, A, nnx.Rngs(1))
    x = Factor(jnp.ones((N, 6)), jnp.ones((N, 4)))
    noises = (jax.random.normal(jax.random.key(0), (H, N, A)), jax.random.normal(jax.random.key(1), (H, N, 4)))
    _, (_, _, weights, _) = jax.jit(learner().actor_loss)(state.actor, state.critic, world_model, x, *noises)
    np.testing.assert_allclose(weights, np.zeros((H - 1, N)), atol=1e-20)
