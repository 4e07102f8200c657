"""The graph of Fig. 2: every arrow that the priors lack is a Jacobian of zeros, every other one is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from denoised_mdp.model.latent import NOISE_PARTS, Factor, Latent, by_name
from denoised_mdp.model.nets import CategoricalStates, GaussianStates, States
from denoised_mdp.model.transition import Transition

ACTION, EMBEDDING, BATCH = 3, 7, 2


BELIEF = by_name(lambda part: {"x": 6, "y": 5}.get(part, 4))
STATE = by_name(lambda part: {"x": 4, "y": 6}.get(part, 2))
STATES = [GaussianStates(0.1), CategoricalStates(2)]
# What each part's prior and posterior see; x and y of the posterior carry what they saw on to z's prior.
EVERYTHING = {"x", "y", "z", "a", "e"}
PRIORS = {"x": {"x", "a"}, "y": {"y"}, "z": EVERYTHING}
POSTERIORS = {"x": EVERYTHING, "y": EVERYTHING, "z": EVERYTHING}  # y's sees the action through the belief of x (code)


def make(belief=BELIEF, state=STATE, z_prior_uses_y=True, states: States = STATES[0]) -> Transition:
    return Transition(
        belief=belief,
        state=state,
        action=ACTION,
        embedding=EMBEDDING,
        states=states,
        z_prior_uses_y=z_prior_uses_y,
        rngs=nnx.Rngs(0),
    )


def random_like(tree, seed: int):
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    return jax.tree.map(lambda v: jax.random.normal(next(keys), v.shape), tree)


def inputs(transition: Transition, *batch: int):
    """A random latent, action, evidence and noise."""
    s = random_like(transition.initial(batch), 1)
    a = jax.random.normal(jax.random.key(2), (*batch, ACTION))
    e = transition.evidence(jax.random.normal(jax.random.key(3), (*batch, EMBEDDING)))
    return s, a, e, transition.noise(jax.random.key(4), batch)


def parents(function, **arguments) -> set[str]:
    """The names of the arguments on which any output of `function` depends: where a derivative is not zero."""
    jacobian = jax.jit(jax.jacrev(lambda given: jax.tree.leaves(function(**given))))(arguments)
    return {
        name
        for name in arguments
        if any(bool(jnp.any(leaf != 0)) for output in jacobian for leaf in jax.tree.leaves(output[name]))
    }


@pytest.mark.parametrize("states", STATES, ids=["gaussian", "categorical"])
@pytest.mark.parametrize("part", Latent._fields)
def test_each_prior_sees_its_parents_alone(part, states):
    transition = make(states=states)
    s, a, e, noise = inputs(transition, BATCH)

    def prior(a, e, **s):
        return getattr(transition.step(Latent(**s), a, e, noise)[2], part)

    assert parents(prior, **s._asdict(), a=a, e=e) == PRIORS[part]


@pytest.mark.parametrize(("z_prior_uses_y", "expected"), [(True, {"z", "x", "y", "a"}), (False, {"z", "x", "a"})])
def test_parents_of_z_given_the_new_x_and_y(z_prior_uses_y, expected):
    transition = make(z_prior_uses_y=z_prior_uses_y)
    s, a, _, _ = inputs(transition, BATCH)
    assert parents(transition.z_step, z=s.z, x=s.x, y=s.y, a=a) == expected


@pytest.mark.parametrize("states", STATES, ids=["gaussian", "categorical"])
@pytest.mark.parametrize("part", Latent._fields)
def test_each_posterior_sees_what_it_may(part, states):
    transition = make(states=states)
    s, a, e, noise = inputs(transition, BATCH)

    def posterior(a, e, **s):
        return getattr(transition.step(Latent(**s), a, e, noise)[1], part)

    assert parents(posterior, **s._asdict(), a=a, e=e) == POSTERIORS[part]


def test_imagination_follows_the_priors():
    transition = make()
    s, a, e, noise = inputs(transition, BATCH)
    imagined = transition.imagine_step(s, a, noise)
    _, _, p = transition.step(s, a, e, noise)
    for part in (part for part in Latent._fields if part != "z"):  # whose prior sees the new x and y
        state = getattr(p, part).at(getattr(noise, part))
        np.testing.assert_allclose(getattr(imagined, part).state, state, rtol=1e-6)
    belief, prior = transition.z_step(s.z, imagined.x, imagined.y, a)
    np.testing.assert_array_equal(imagined.z.belief, belief)
    np.testing.assert_array_equal(imagined.z.state, prior.at(noise.z))


def test_observing_is_stepping_and_forgets_at_an_episode_start():
    transition, length = make(), 5
    _, actions, e, noise = inputs(transition, length, BATCH)
    is_first = np.zeros((length, BATCH), bool)
    is_first[3, 1] = True
    start = random_like(transition.initial((BATCH,)), 5)
    s, _, _ = transition.observe(start, actions, e, is_first, noise)

    latent = start
    for t in range(length):
        fresh = jax.tree.map(lambda v, t=t: np.where(is_first[t][:, None], 0, v), (latent, actions[t]))
        latent, _, _ = transition.step(*fresh, *jax.tree.map(lambda v, t=t: v[t], (e, noise)))
        jax.tree.map(lambda whole, one, t=t: np.testing.assert_allclose(whole[t], one, rtol=2e-5, atol=1e-6), s, latent)


@pytest.mark.parametrize("states", STATES, ids=["gaussian", "categorical"])
@pytest.mark.parametrize("absent", [*NOISE_PARTS, NOISE_PARTS], ids="".join)
def test_a_part_of_width_zero_is_absent(absent, states):
    widths = STATE._replace(**dict.fromkeys(absent, 0))
    transition = make(belief=widths, state=widths, states=states)
    s, q, p = transition.step(*inputs(transition, BATCH))
    for part in absent:
        assert getattr(s, part) == Factor(*getattr(s, part)) and getattr(s, part).features.shape == (BATCH, 0)
        np.testing.assert_array_equal(getattr(q, part).kl(getattr(p, part)), np.zeros(BATCH))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((s, q, p)))
