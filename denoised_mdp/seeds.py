"""The agents of a training: one as it is, or those of several seeds in one program.

Shapes: S = seeds, N = environments of each; all other letters are those of `agent`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.agent import ActingState, Agent, TrainState
from denoised_mdp.replay import Batch

Tree = TypeVar("Tree")


class Mind(NamedTuple):
    """All that changes of an agent."""

    state: TrainState  # what it has learned
    memory: ActingState  # what it remembers of the episodes going on


class Keys(NamedTuple):
    """The streams that an agent draws from."""

    learn: jax.Array
    collect: jax.Array


class Single:
    """One agent."""

    def __init__(self, agent: Agent, mind: Mind, keys: Keys):
        self._agent, self._mind, self._keys = agent, mind, keys

    def __getitem__(self, seed: int) -> Mind:
        return self._mind

    def train_chunk(self, batches: Mapping[int, Batch]) -> dict[str, jax.Array]:
        """Updates on batches [K, T, B]; returns their mean metrics [], which may still be on their way."""
        (batch,) = batches.values()
        state, metrics = self._agent.train_chunk(self._mind.state, batch, self._keys.learn)
        self._mind = self._mind._replace(state=state)
        return metrics

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """Explores: observations [1, N, H, W, 3] uint8 and is_first [1, N] -> actions [1, N, A]."""
        state, memory = self._mind
        key = jax.random.fold_in(self._keys.collect, env_step)
        memory = self._agent.act(
            state.world_model, state.policy.actor, memory, observation[0], is_first[0], key, explore=True
        )
        self._mind = Mind(state, memory)
        return np.asarray(memory.action)[None]


class Together:
    """The agents of S seeds as one: all that is theirs lies on a first axis, over which the functions are mapped.

    On a GPU they are computed side by side, and sums may be added up in another order than in a single run. A CPU has
    no room to spare: there they come one after another, in the memory of one, and each is its single run bit by bit.
    """

    def __init__(self, agent: Agent, minds: Sequence[Mind], keys: Sequence[Keys], *, side_by_side: bool | None = None):
        """`side_by_side`: None leaves it to the device."""
        self._agent, self._seeds = agent, len(minds)
        self._minds: Mind = _stack(minds)
        self._keys: Keys = _stack(keys)
        if side_by_side is None:
            side_by_side = jax.default_backend() != "cpu"
        mapped = jax.vmap if side_by_side else _one_after_another
        self._train_chunk = jax.jit(mapped(agent.train_chunk), donate_argnums=0)
        self._act = jax.jit(mapped(functools.partial(agent.act, explore=True)))

    def __getitem__(self, seed: int) -> Mind:
        return _pick(self._minds, seed)

    def train_chunk(self, batches: Mapping[int, Batch]) -> dict[str, jax.Array]:
        """Updates of the seeds that there are batches [K, T, B] for; returns their mean metrics, one for each of them.

        All at once if there are batches for all. Else, as where one seed's first episode ended early, each by itself.
        """
        if len(batches) < self._seeds:
            return _stack([self._train_alone(seed, batch) for seed, batch in batches.items()])
        stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches.values())
        state, metrics = self._train_chunk(self._minds.state, stacked, self._keys.learn)
        self._minds = self._minds._replace(state=state)
        return metrics

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """Explores: observations [S, N, H, W, 3] uint8 and is_first [S, N] -> actions [S, N, A]."""
        state, memory = self._minds
        keys = _fold_in(self._keys.collect, env_step)
        memory = self._act(state.world_model, state.policy.actor, memory, observation, is_first, keys)
        self._minds = Mind(state, memory)
        return np.asarray(memory.action)

    def _train_alone(self, seed: int, batch: Batch) -> dict[str, jax.Array]:
        state, metrics = self._agent.train_chunk(self[seed].state, batch, self._keys.learn[seed])
        self._minds = self._minds._replace(state=_put(self._minds.state, seed, state))
        return metrics


def _one_after_another(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: jax.lax.map(lambda own: function(*own), arguments)


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _pick(tree: Tree, seed: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[seed], tree)


@functools.partial(jax.jit, donate_argnums=0)
def _put(tree: Tree, seed: int, part: Tree) -> Tree:
    return jax.tree.map(lambda leaf, own: leaf.at[seed].set(own), tree, part)


_fold_in = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(0, None)))
