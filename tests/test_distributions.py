"""Densities and divergences against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
import scipy.stats

from denoised_mdp.model.distributions import Normal, TanhNormal
from denoised_mdp.model.nets import CategoricalStates, GaussianStates, States

P = Normal(jnp.array([[0.3, -1.0], [2.0, 0.0]]), jnp.array([[0.5, 2.0], [1.0, 0.1]]))
Q = Normal(jnp.array([[0.0, 1.0], [2.5, 0.1]]), jnp.array([[1.5, 1.0], [0.7, 0.2]]))


def test_normal_log_prob():
    value = np.array([[0.1, 0.2], [1.5, -0.1]])
    expected = scipy.stats.norm.logpdf(value, P.mean, P.stddev).sum(-1)
    np.testing.assert_allclose(P.log_prob(value), expected, rtol=1e-5)


def test_kl_is_the_expected_log_ratio():
    def integral(m1, s1, m2, s2):
        def integrand(v):
            log_p, log_q = scipy.stats.norm.logpdf(v, [m1, m2], [s1, s2])
            return np.exp(log_p) * (log_p - log_q)

        return scipy.integrate.quad(integrand, m1 - 12 * s1, m1 + 12 * s1)[0]

    expected = np.vectorize(integral)(*map(np.asarray, (*P, *Q))).sum(-1)
    np.testing.assert_allclose(P.kl(Q), expected, rtol=1e-4)
    np.testing.assert_array_equal(P.kl(P), np.zeros(2))


def test_at_is_reparameterised():
    gradient = jax.grad(lambda p: p.at(jnp.array([[1.0, 2.0], [-1.0, 0.5]])).sum())(P)
    np.testing.assert_array_equal(gradient.mean, np.ones((2, 2)))
    np.testing.assert_array_equal(gradient.stddev, [[1.0, 2.0], [-1.0, 0.5]])


# Of two variables with three classes each.
OUTPUTS = np.array([[0.0, 1.0, -1.0, 2.0, 0.5, 3.0], [4.0, -9.0, 0.0, 0.0, 0.0, 0.0]], np.float32)


def probabilities(outputs: np.ndarray) -> np.ndarray:
    odds = np.exp(outputs.reshape(-1, 2, 3).astype(np.float64))
    return 0.99 * odds / odds.sum(-1, keepdims=True) + 0.01 / 3


def test_categorical_samples_are_one_hot_and_as_frequent_as_their_probabilities():
    distribution = CategoricalStates(3)(jnp.asarray(OUTPUTS))
    noise = jax.random.normal(jax.random.key(0), (40_000, 2, 6))
    samples = np.asarray(jax.jit(jax.vmap(distribution.at))(noise)).reshape(-1, 2, 2, 3)
    assert set(np.unique(samples.round(5))) == {0, 1} and (samples.sum(-1).round(5) == 1).all()
    np.testing.assert_allclose(samples.mean(0), probabilities(OUTPUTS), atol=0.01)  # four standard errors
    np.testing.assert_allclose(distribution.mean, probabilities(OUTPUTS).reshape(2, 6), rtol=1e-4)


def test_gradients_of_a_categorical_sample_are_those_of_its_probabilities():
    weights, noise = jnp.arange(12.0).reshape(2, 6), jax.random.normal(jax.random.key(1), (2, 6))
    states = CategoricalStates(3)
    to_sample = jax.grad(lambda outputs: jnp.sum(weights * states(outputs).at(noise)))(jnp.asarray(OUTPUTS))
    to_mean = jax.grad(lambda outputs: jnp.sum(weights * states(outputs).mean))(jnp.asarray(OUTPUTS))
    np.testing.assert_allclose(to_sample, to_mean, rtol=1e-5)
    assert np.any(to_sample != 0)


def test_categorical_kl_is_the_sum_over_variables_and_classes():
    q, p = (CategoricalStates(3)(jnp.asarray(outputs)) for outputs in (OUTPUTS, OUTPUTS[::-1]))
    of_q, of_p = probabilities(OUTPUTS), probabilities(OUTPUTS[::-1])
    np.testing.assert_allclose(q.kl(p), (of_q * (np.log(of_q) - np.log(of_p))).sum((1, 2)), rtol=1e-4)
    np.testing.assert_array_equal(q.kl(q), [0, 0])


def test_states_side_by_side_are_divided_as_if_they_were_alone():
    kinds: list[States] = [GaussianStates(0.1), CategoricalStates(3)]
    for states in kinds:
        both = states(jnp.arange(states.outputs(9) * 2.0).reshape(2, -1))
        first, second = states.split(both, 6)
        np.testing.assert_array_equal(jnp.concatenate([first.mean, second.mean], -1), both.mean)
        assert first.mean.shape == (2, 6) and second.kl(second).shape == (2,)


def test_tanh_normal_density_integrates_to_one():
    policy = TanhNormal(jnp.array([0.4]), jnp.array([0.6]))
    grid = np.tanh(np.linspace(-6, 6, 20001))
    u = np.arctanh(grid)
    noise = ((u - 0.4) / 0.6)[:, None]
    actions, log_probs = jax.vmap(policy.sample_and_log_prob)(jnp.asarray(noise))
    np.testing.assert_allclose(actions[:, 0], grid, atol=1e-5)
    np.testing.assert_allclose(scipy.integrate.trapezoid(np.exp(log_probs), grid), 1.0, rtol=1e-3)


def test_tanh_normal_scores_its_own_sample_and_stays_finite_when_saturated():
    policy = TanhNormal(jnp.array([[0.2, -0.3]]), jnp.array([[0.4, 0.7]]))
    action, log_prob = policy.sample_and_log_prob(jnp.array([[0.5, -1.0]]))
    np.testing.assert_allclose(policy.log_prob(action), log_prob, rtol=1e-4)
    saturated = TanhNormal(jnp.array([[50.0]]), jnp.array([[1.0]]))
    action, log_prob = saturated.sample_and_log_prob(jnp.array([[0.0]]))
    assert (
        float(action[0, 0]) == 1.0
        and np.isfinite(float(log_prob[0]))
        and np.isfinite(float(saturated.log_prob(action)[0]))
    )


def test_mode_is_the_likeliest_sample_of_each_row():
    policy = TanhNormal(jnp.array([[0.0], [3.0]]), jnp.array([[0.3], [0.3]]))
    key = jax.random.key(0)
    mode = policy.mode(key, 500)
    samples, log_probs = jax.vmap(policy.sample_and_log_prob)(jax.random.normal(key, (500, 2, 1)))
    for row in range(2):
        assert float(mode[row, 0]) == float(samples[np.argmax(log_probs[:, row]), row, 0])
