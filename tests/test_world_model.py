"""The objective against a numpy formula, and what depends on what in the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pydantic import TypeAdapter

from denoised_mdp.analysis.factorization.headline import MEANT_FOR
from denoised_mdp.config import sections
from denoised_mdp.model.latent import NOISE_PARTS, Latent, by_name
from denoised_mdp.model.nets import GaussianStates, PatchDecoder, PatchEncoder
from denoised_mdp.model.transition import Transition
from denoised_mdp.model.world_model import DenoisedMDP, Objective, model_loss
from denoised_mdp.runs.metrics import METRICS
from denoised_mdp.runs.replay import Batch

T, B, A, SIZE = 4, 3, 2, 16


def parts(otherwise, **values) -> Latent:
    """A value for each part by its name, and one for all others."""
    return by_name(lambda part: values.get(part, otherwise))


EQUATION_4 = Objective(1.0, parts(0.25, x=1.0), parts(0.0, x=3.0), 1.0, 1.0)
SPLIT = Objective(1.5, parts(0.1, x=0.7, y=0.2), parts(0.2, x=0.4, y=0.3), 0.3, 5.0)
XYZ, XY, X = parts(4, x=6, y=5), parts(0, x=6, y=5), parts(0, x=6)  # widths
STATE = parts(2, x=4, y=3)


def make(belief=XYZ, state=STATE, *, continue_head=False) -> DenoisedMDP:
    """Drawn by numpy: jax would compile a program for each array."""
    shapes = jax.eval_shape(lambda: initialised(belief, state, continue_head))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda v: jnp.asarray(rng.uniform(-0.4, 0.4, v.shape), v.dtype), shapes)


def initialised(belief, state, continue_head) -> DenoisedMDP:
    rngs = nnx.Rngs(0)
    transition = Transition(
        belief=belief,
        state=state,
        action=A,
        embedding=8,
        states=GaussianStates(0.1),
        z_prior_uses_y=True,
        rngs=rngs,
    )
    return DenoisedMDP(
        PatchEncoder(SIZE, [4, 4, 8], 8, rngs),
        PatchDecoder(SIZE, sum(belief) + sum(state), 8, [4, 4, 8], rngs),
        transition,
        reward_widths=[8],
        continue_head=continue_head,
        rngs=rngs,
    )


def make_batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        observation=rng.integers(0, 256, (T, B, SIZE, SIZE, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (T, B, A)).astype(np.float32),
        reward=rng.normal(size=(T, B)).astype(np.float32),
        is_first=np.zeros((T, B), bool),
        is_terminal=rng.uniform(size=(T, B)) < 0.3,
        factors={},
    )


loss_of = jax.jit(model_loss, static_argnames="objective")  # op by op it would take minutes


def numpy_kl(q, p):
    q, p = (jax.tree.map(lambda v: np.asarray(v, np.float64), d) for d in (q, p))
    terms = np.log(p.stddev / q.stddev) + (q.stddev**2 + (q.mean - p.mean) ** 2) / (2 * p.stddev**2) - 0.5
    return terms.sum(-1)


@pytest.mark.parametrize("objective", [EQUATION_4, SPLIT], ids=["equation 4", "split free nats"])
@pytest.mark.parametrize("widths", [XYZ, XY, X], ids=["xyz", "xy", "x"])
def test_loss_is_equation_4(widths, objective):
    model, batch = make(widths, widths), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))
    loss, (s, metrics) = loss_of(model, batch, noise, objective)

    filtered, picture, reward = jax.jit(
        lambda m: (
            m.observe(batch.observation, batch.action, batch.is_first, noise),
            m.decode(s),
            m.reward(s.x, s.y),
        )
    )(model)
    s_again, q, p = filtered
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), s, s_again)
    kl = Latent(*map(numpy_kl, q, p))
    half_log_2pi = 0.5 * np.log(2 * np.pi)
    target = batch.observation / 255 - 0.5
    nll_observation = (0.5 * (target - np.asarray(picture, np.float64)) ** 2 + half_log_2pi).sum((-3, -2, -1))
    nll_reward = 0.5 * (batch.reward - np.asarray(reward)) ** 2 + half_log_2pi
    free = Latent(*(np.maximum(k, n) for k, n in zip(kl, objective.free_nats, strict=True)))
    expected = (
        nll_observation
        + objective.reward_weight * nll_reward
        + objective.alpha
        * (
            objective.beta_free_nats_x * free.x
            + (objective.beta.x - objective.beta_free_nats_x) * kl.x
            + sum(getattr(objective.beta, part) * getattr(free, part) for part in NOISE_PARTS)
        )
    )
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    kls = {f"kl_{part}": value for part, value in kl._asdict().items()}
    for name, value in (kls | {"reward_loss": nll_reward}).items():
        np.testing.assert_allclose(metrics[name], value.mean(), rtol=2e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(metrics["observation_loss"], nll_observation.mean(), rtol=1e-5)


def test_continuation_is_a_bernoulli_of_not_terminal():
    model, batch = make(continue_head=True), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))
    _, (s, metrics) = loss_of(model, batch, noise, EQUATION_4)
    p = np.asarray(model.continuation(s.x), np.float64)
    expected = -np.log(np.where(batch.is_terminal, 1 - p, p)).mean()
    np.testing.assert_allclose(metrics["continue_loss"], expected, rtol=1e-4)

    without = make()
    assert "continue_loss" not in loss_of(without, batch, noise, EQUATION_4)[1][1]
    np.testing.assert_array_equal(without.continuation(s.x), np.ones((T, B)))


def test_reward_is_the_sum_of_two_heads_and_never_sees_z():
    model, batch = make(), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))
    _, (s, _) = loss_of(model, batch, noise, EQUATION_4)
    assert model.reward_y is not None
    of_y = model.reward_y(s.y.features)[..., 0]
    np.testing.assert_allclose(model.reward(s.x, s.y), model.x_reward(s.x) + of_y, rtol=1e-6)
    assert make(parts(4, x=6, y=0), parts(2, x=4, y=0)).reward_y is None


def test_what_came_before_the_first_row_does_not_matter():
    model, batch = make(), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))
    other_action = batch.action.copy()
    other_action[0] += 1
    losses = [loss_of(model, batch._replace(action=a), noise, EQUATION_4)[0] for a in (batch.action, other_action)]
    assert losses[0] == losses[1]
    other_action[1] += 1
    assert loss_of(model, batch._replace(action=other_action), noise, EQUATION_4)[0] != losses[0]


def test_free_nats_stop_the_gradient_of_a_small_kl():
    model, batch = make(), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))

    def kl_gradient(free_nats):
        objective = Objective(1e6, parts(0.0, x=1.0), parts(0.0, x=free_nats), 1.0, 1.0)
        gradient = jax.jit(jax.grad(lambda m: model_loss(m, batch, noise, objective)[0]))(model)
        return max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(gradient.transition.x_prior.head))

    assert kl_gradient(0.0) > 1.0
    assert kl_gradient(1e4) == 0.0


def test_every_part_of_the_latent_state_has_its_kl_its_settings_its_metrics_and_a_meaning():
    """What a new part needs outside its priors and posteriors: whoever forgets one of these finds it here."""
    model, batch = make(), make_batch()
    noise = model.transition.noise(jax.random.key(1), (T, B))
    _, (_, metrics) = jax.eval_shape(lambda: model_loss(model, batch, noise, EQUATION_4))
    assert Latent._fields == sections.PART_NAMES and NOISE_PARTS == sections.NOISE_NAMES
    swapped = TypeAdapter(sections.NoiseParts)
    assert [swapped.validate_python(name) for name in (*NOISE_PARTS, "".join(NOISE_PARTS))]
    assert MEANT_FOR.keys() == set(NOISE_PARTS)
    for part in Latent._fields:
        assert {part, f"beta_{part}", f"free_nats_{part}"} <= sections.DenoisedModel.model_fields.keys()
        assert {f"kl_{part}", f"kl_{part}_loss"} <= metrics.keys()
        assert {f"model/kl_{part}", f"model/kl_{part}_loss"} <= METRICS.keys()
