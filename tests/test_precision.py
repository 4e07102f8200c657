"""precision=bfloat16: what is rounded, what is not, and that it learns the same."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.update import random_batches
from denoised_mdp.agent import Agent
from denoised_mdp.config import Config
from denoised_mdp.config.compose import compose
from denoised_mdp.model.nets import product

A = 2
UPDATES = 40


def debug(precision: str) -> Config:
    return compose(["size=debug", "model=xy", f"precision={precision}"])


def test_a_rounded_product_adds_in_float32_and_rounds_its_gradients_factors():
    rng = np.random.default_rng(0)
    a, b, g = (rng.normal(size=shape).astype(np.float32) for shape in ((5, 300), (300, 7), (5, 7)))
    values, pullback = jax.vjp(lambda a, b: product(a, b, "bfloat16"), a, b)
    to_a, to_b = pullback(jnp.asarray(g))
    a, b, g = (np.asarray(jnp.asarray(v, "bfloat16"), np.float64) for v in (a, b, g))
    for found, expected in ((values, a @ b), (to_a, g @ b.T), (to_b, a.T @ g)):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bfloat16_learns_as_float32_does():
    """One batch again and again: both lower the loss to the same level, by nearly the same way, not by the same."""
    batches = jax.tree.map(lambda v: np.repeat(v, UPDATES, axis=0), random_batches(debug("float32"), A, 1))
    means, states = {}, {}
    for precision in ("float32", "bfloat16"):
        agent = Agent(debug(precision), A)
        state = agent.create(jax.random.key(0))
        states[precision], first = agent.train_chunk(state, batches, jax.random.key(1))
        _, means[precision] = agent.train_chunk(states[precision], batches, jax.random.key(2))
        assert means[precision]["model/observation_mse"] < 0.99 * first["model/observation_mse"]
    exact, rounded = means["float32"], means["bfloat16"]
    assert exact["model/loss"] != rounded["model/loss"]
    for name, bound in {"model/observation_mse": 0.005, "model/kl_x": 0.05, "policy/entropy": 0.05}.items():
        np.testing.assert_allclose(rounded[name], exact[name], rtol=bound, err_msg=name)


def test_what_is_kept_and_what_is_measured_is_float32():
    agent = Agent(debug("bfloat16"), A)
    state = agent.shapes()
    batch = jax.tree.map(lambda v: v[0], random_batches(agent.config, A, 1))
    after, metrics = jax.eval_shape(agent.train_step, state, batch, jax.random.key(0))
    assert {leaf.dtype.name for leaf in jax.tree.leaves((after, metrics))} == {"float32", "int32"}
    program = str(jax.make_jaxpr(agent.train_step)(state, batch, jax.random.key(0)))
    products = [line for line in program.splitlines() if "= dot_general[" in line]
    assert products and all(":f32[" in line for line in products)
    assert program.count("bf16[") > len(products)
