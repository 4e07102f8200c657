"""Adam, after clipping the gradient's global norm if asked to, on any pytree of parameters (Appendix B.1.2)."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

Parameters = TypeVar("Parameters")


class Adam:
    """Holds hyperparameters alone; parameters and moments are passed in and returned."""

    def __init__(
        self,
        learning_rate: float,
        *,
        epsilon: float,
        clip_norm: float | None,
        weight_decay: float = 0.0,
        warmup: int = 0,
    ):
        """`weight_decay`: the multiple of the parameters that is added to the clipped gradient.

        warmup: steps over which the learning rate rises from 0; with 0 it is constant.
        """
        rate = optax.linear_schedule(0.0, learning_rate, warmup) if warmup else learning_rate
        clip = optax.identity() if clip_norm is None else optax.stateless(lambda g, _: _clipped(g, clip_norm))
        decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []  # else not in checkpoints
        self._transform = optax.chain(clip, *decay, optax.adam(rate, eps=epsilon))

    def init(self, parameters: Any) -> optax.OptState:
        """Returns the moments before the first step: zeros."""
        return self._transform.init(parameters)

    def step(
        self, parameters: Parameters, gradients: Parameters, moments: optax.OptState
    ) -> tuple[Parameters, optax.OptState, jax.Array]:
        """Returns the new parameters and moments, and the gradient's norm [] before clipping."""
        untyped: Any = parameters  # optax's types cover arrays and dicts, its functions any pytree
        updates, moments = self._transform.update(gradients, moments, untyped)  # pyright: ignore[reportArgumentType]
        updated: Any = optax.apply_updates(untyped, updates)
        return updated, moments, _norm(gradients)


def _clipped(gradients: Any, most: float) -> Any:
    """Scales the gradients to a norm of at most `most`: `optax.clip_by_global_norm` with `_norm`."""
    norm = _norm(gradients)
    return jax.tree.map(lambda g: jnp.where(norm < most, g, (g / norm.astype(g.dtype)) * most), gradients)


def _norm(gradients: Any) -> jax.Array:
    """Returns the norm [] of all gradients together.

    The barrier and the scalars work around a fault of XLA on GPUs (jax 0.11.2): it shares the square of an array [1]
    between this sum and Adam's moments, then stops with "Expected instruction to have shape equal to f32[]".
    """
    gradients = jax.lax.optimization_barrier(gradients)
    return optax.tree.norm(jax.tree.map(lambda g: g.reshape(()) if g.size == 1 else g, gradients))
