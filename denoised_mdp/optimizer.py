"""Adam, after clipping the gradient's global norm if asked to, on any pytree of parameters (Appendix B.1.2)."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import optax

Parameters = TypeVar("Parameters")


class Adam:
    """Holds numbers alone; parameters and moments go in and out."""

    def __init__(self, learning_rate: float, *, epsilon: float, clip_norm: float | None, weight_decay: float = 0.0):
        """`weight_decay`: times the parameters, added to the clipped gradient."""
        clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
        decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []  # else checkpoints know no such step
        self._transform = optax.chain(clip, *decay, optax.adam(learning_rate, eps=epsilon))

    def init(self, parameters: Any) -> optax.OptState:
        """The moments before the first step: zeros."""
        return self._transform.init(parameters)

    def step(
        self, parameters: Parameters, gradients: Parameters, moments: optax.OptState
    ) -> tuple[Parameters, optax.OptState, jax.Array]:
        """The new parameters and moments, and the gradient's norm [] before clipping."""
        untyped: Any = parameters  # optax's types know arrays and dicts, its functions any pytree
        updates, moments = self._transform.update(gradients, moments, untyped)  # pyright: ignore[reportArgumentType]
        updated: Any = optax.apply_updates(untyped, updates)
        return updated, moments, optax.tree.norm(gradients)
