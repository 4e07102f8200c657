"""The graphical model of Fig. 2: all dependencies, written once. Filtering, acting and tests call `step`.

    priors      p(x'|x,a)   p(y'|y)   p(z'|z,x',y',a)
    posteriors  q(x',y'|h_x,h_y,z,o)  in one network (h_x carries the action)   q(z'|x',y',h_z,o)

Shapes: T = time, B = batch, A = action, E = embedding of an observation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from denoised_mdp.model.distributions import Array, StateDistribution
from denoised_mdp.model.latent import Factor, Latent, standard_normals, zeros
from denoised_mdp.model.nets import GRU, MLP, PLAIN, Activation, Linear, States, Style


class Evidence(NamedTuple):
    """An observation's share in the first layer of each posterior; not recurrent, so computed for all T at once."""

    xy: jax.Array  # [B, width of the joint posterior of x and y]
    z: jax.Array  # [B, width of z's posterior]


class Prior(nnx.Module):
    """inputs -> dense layers -> GRU(belief) -> distribution of the state: the prior of one part."""

    def __init__(
        self,
        inputs: int,
        layers: int,
        belief: int,
        state: int,
        states: States,
        rngs: nnx.Rngs,
        *,
        style: Style = PLAIN,
    ):
        self.embed = MLP(inputs, [belief] * (layers - 1), belief, rngs, style=style)
        self.activation = Activation(style, belief)
        self.gru = GRU(belief, belief, rngs, norm=style.norm)
        self.head = MLP(belief, [belief], states.outputs(state), rngs, style=style)
        self.states = states

    def __call__(self, belief: jax.Array, *inputs: jax.Array) -> tuple[jax.Array, StateDistribution]:
        """The next belief [B, N], and the prior of the next state given it."""
        hidden = self.activation(self.embed(jnp.concatenate(inputs, axis=-1)))
        belief = self.gru(hidden, belief)
        return belief, self.states(self.head(belief))


class Posterior(nnx.Module):
    """[latents, embedding] -> linear, activation, linear: outputs for a state. `evidence` is the embedding's share."""

    def __init__(self, latents: int, embedding: int, width: int, outputs: int, rngs: nnx.Rngs, *, style: Style = PLAIN):
        self.activation = Activation(style, width)
        fan_in = latents + embedding
        self.latents = Linear(latents, width, rngs, fan_in=fan_in)
        self.embedding = Linear(embedding, width, rngs, fan_in=fan_in, use_bias=False)
        self.output = Linear(width, outputs, rngs)

    def __call__(self, evidence: jax.Array, *latents: jax.Array) -> jax.Array:
        return self.output(self.activation(self.latents(jnp.concatenate(latents, axis=-1)) + evidence))


class Transition(nnx.Module):
    """Priors and posteriors of x, y and z. `belief` and `state` hold the widths of the parts; zero means absent."""

    def __init__(
        self,
        *,
        belief: Latent[int],
        state: Latent[int],
        action: int,
        embedding: int,
        states: States,
        z_prior_uses_y: bool,
        rngs: nnx.Rngs,
        style: Style = PLAIN,
    ):
        self.belief, self.state, self.states, self.z_prior_uses_y = belief, state, states, z_prior_uses_y
        (hx, hy, hz), (sx, sy, sz) = belief, state
        y_seen_by_z = (hy + sy) if z_prior_uses_y else 0
        self.x_prior = Prior(sx + action, 1, hx, sx, states, rngs, style=style)
        self.y_prior = Prior(sy, 1, hy, sy, states, rngs, style=style)
        self.z_prior = Prior(hx + sx + y_seen_by_z + sz + action, 2, hz, sz, states, rngs, style=style)
        self.xy_posterior = Posterior(hx + hy + hz + sz, embedding, hx + hy, states.outputs(sx + sy), rngs, style=style)
        self.z_posterior = Posterior(hx + sx + hy + sy + hz, embedding, hz, states.outputs(sz), rngs, style=style)

    def initial(self, batch: tuple[int, ...]) -> Latent[Factor]:
        """Returns zeros [batch, width], the state before the first observation (as Dreamer)."""
        return zeros(self.belief, self.state, batch)

    def noise(self, key: jax.Array, batch: tuple[int, ...]) -> Latent[jax.Array]:
        """Draws standard normals [batch, S] for each part."""
        return standard_normals(key, self.state, batch)

    def evidence(self, embedding: jax.Array) -> Evidence:
        """[B, E] -> the embedding's contribution to the posteriors."""
        return Evidence(self.xy_posterior.embedding(embedding), self.z_posterior.embedding(embedding))

    def x_step(self, x: Factor, a: jax.Array) -> tuple[jax.Array, StateDistribution]:
        """x' ~ p(.|x, a): the next belief and prior. With a reward this is the whole MDP that a policy needs."""
        return self.x_prior(x.belief, x.state, a)

    def y_step(self, y: Factor) -> tuple[jax.Array, StateDistribution]:
        """y' ~ p(.|y): neither action nor x."""
        return self.y_prior(y.belief, y.state)

    def z_step(self, z: Factor, x: Factor, y: Factor, a: jax.Array) -> tuple[jax.Array, StateDistribution]:
        """z' ~ p(.|z, x', y', a), from the new x and y."""
        seen = (x.features, z.state, a, y.features) if self.z_prior_uses_y else (x.features, z.state, a)
        return self.z_prior(z.belief, *seen)

    def step(
        self, s: Latent[Factor], a: jax.Array, e: Evidence, noise: Latent[jax.Array]
    ) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]:
        """Filters one observation: s' ~ q(.|s, a, o). Returns s', and q and p of every part.

        s: latent [B], a: action [B, A] that led to the observation, e: its `evidence` [B],
        noise: standard normals [B, S] of each part, drawn by the caller.
        """
        hx, px = self.x_step(s.x, a)
        hy, py = self.y_step(s.y)
        qx, qy = self._xy_posterior(hx, hy, s.z, e)
        x, y = Factor(hx, qx.at(noise.x)), Factor(hy, qy.at(noise.y))
        hz, pz = self.z_step(s.z, x, y, a)
        qz = self.states(self.z_posterior(e.z, x.features, y.features, hz))
        z = Factor(hz, qz.at(noise.z))
        return Latent(x, y, z), Latent(qx, qy, qz), Latent(px, py, pz)

    def imagine_step(self, s: Latent[Factor], a: jax.Array, noise: Latent[jax.Array]) -> Latent[Factor]:
        """s' ~ p(.|s, a) for all parts: open-loop prediction."""
        hx, px = self.x_step(s.x, a)
        hy, py = self.y_step(s.y)
        x, y = Factor(hx, px.at(noise.x)), Factor(hy, py.at(noise.y))
        hz, pz = self.z_step(s.z, x, y, a)
        return Latent(x, y, Factor(hz, pz.at(noise.z)))

    def observe(
        self, s: Latent[Factor], actions: Array, e: Evidence, is_first: Array, noise: Latent[jax.Array]
    ) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]:
        """Filters a sequence from the latent s [B] before it: a scan of `step`; everything returned is [T, B, ...].

        actions [T, B, A]; e: evidence [T, B]; is_first [T, B]: there the previous latent and the action are zeroed.
        """
        return scan(self.step, s, actions, e, is_first, noise)

    def _xy_posterior(
        self, hx: jax.Array, hy: jax.Array, z: Factor, e: Evidence
    ) -> tuple[StateDistribution, StateDistribution]:
        """One network for x and y, which see the same evidence (Sec. 3)."""
        return self.states.split(self.states(self.xy_posterior(e.xy, hx, hy, z.belief, z.state)), self.state.x)


def scan(
    step: Callable[..., tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]],
    s: Latent[Factor],
    actions: Array,
    e: Any,
    is_first: Array,
    noise: Latent[jax.Array],
) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]:
    """Filters a sequence by any model's `step`; see `Transition.observe`."""

    def body(s, inputs):
        a, e, first, noise = inputs
        s, a = jax.tree.map(lambda v: jnp.where(first[:, None], 0.0, v), (s, a))
        s, q, p = step(s, a, e, noise)
        return s, (s, q, p)

    return jax.lax.scan(body, s, (actions, e, is_first, noise))[1]
