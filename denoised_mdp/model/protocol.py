"""The interfaces between modules: experience, the dynamics of the latents, and a world model.

`WorldModel` lists what acting, learning to act and measuring need of any model: `world_model.py` holds one, `tia.py`
another.
Shapes: T = time, B = batch, H W = image, A = action.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

import jax

from denoised_mdp.model.distributions import Array, StateDistribution
from denoised_mdp.model.latent import Factor, Latent


class Batch(Protocol):
    """Sequences of experience, such as one of the K in a `replay.Batch`. Row t holds the result of action[t]."""

    @property
    def observation(self) -> Array: ...  # [T, B, H, W, 3] uint8
    @property
    def action(self) -> Array: ...  # [T, B, A]
    @property
    def reward(self) -> Array: ...  # [T, B]
    @property
    def is_first(self) -> Array: ...  # [T, B] bool, a new episode starts: nothing before it counts
    @property
    def is_terminal(self) -> Array: ...  # [T, B] bool, ended by the world's rules, not by a time limit


class Dynamics(Protocol):
    """Priors and posteriors. The methods of `Transition` document arguments and results."""

    @property
    def belief(self) -> Latent[int]: ...
    @property
    def state(self) -> Latent[int]: ...
    def noise(self, key: jax.Array, batch: tuple[int, ...]) -> Latent[jax.Array]: ...
    def x_step(self, x: Factor, a: jax.Array) -> tuple[jax.Array, StateDistribution]: ...
    def step(
        self, s: Latent[Factor], a: jax.Array, e: Any, noise: Latent[jax.Array]
    ) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]: ...
    def imagine_step(self, s: Latent[Factor], a: jax.Array, noise: Latent[jax.Array]) -> Latent[Factor]: ...


class WorldModel(Protocol):
    """A pytree of parameters with these methods. A policy sees x alone."""

    @property
    def encoder(self) -> Callable[[jax.Array], jax.Array]: ...  # of the pictures that x sees; [B, H, W, 3] -> [B, E]
    @property
    def transition(self) -> Dynamics: ...
    @property
    def reward_y(self) -> Any: ...  # None if y adds nothing to the reward
    def evidence(self, observation: Array) -> Any: ...
    def reward(self, x: Factor, y: Factor) -> jax.Array: ...
    def x_reward(self, x: Factor) -> jax.Array: ...
    def continuation(self, x: Factor) -> jax.Array: ...
    def decode(self, s: Latent[Factor]) -> jax.Array: ...
    def layers(self, s: Latent[Factor]) -> OrderedDict[str, jax.Array]: ...
    def observe(
        self, observation: Array, action: Array, is_first: Array, noise: Latent[jax.Array]
    ) -> tuple[Latent[Factor], Latent[StateDistribution], Latent[StateDistribution]]: ...
