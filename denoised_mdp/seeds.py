"""The agents of the seeds that are trained together: one after another, or side by side in one program.

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
Metrics = dict[str, jax.Array]
Samples = Mapping[int, Callable[[], Batch]]  # by seed, what draws its next batches [K, T, B]


class Mind(NamedTuple):
    """All that changes of an agent."""

    state: TrainState  # what it has learned
    memory: ActingState  # what it remembers of the episodes going on


class Keys(NamedTuple):
    """The streams that an agent draws from."""

    learn: jax.Array
    collect: jax.Array


class InTurn:
    """One agent, or several, each of which takes its turn with the programs of a single run."""

    batches_held = 1  # in memory at a time

    def __init__(self, agent: Agent, minds: Sequence[Mind], keys: Sequence[Keys]):
        self._agent, self._minds, self._keys = agent, list(minds), keys

    def __getitem__(self, seed: int) -> Mind:
        return self._minds[seed]

    def train_chunk(self, samples: Samples) -> dict[int, Metrics]:
        """K updates of these seeds. Their mean metrics [] may still be on their way."""
        found = {}
        for seed, sample in samples.items():
            mind = self._minds[seed]
            state, found[seed] = self._agent.train_chunk(mind.state, sample(), self._keys[seed].learn)
            self._minds[seed] = mind._replace(state=state)
        return found

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """Explores: observations [S, N, H, W, 3] uint8 and is_first [S, N] -> actions [S, N, A]."""
        for seed, (state, memory) in enumerate(self._minds):
            key = jax.random.fold_in(self._keys[seed].collect, env_step)
            memory = self._agent.act(
                state.world_model, state.policy.actor, memory, observation[seed], is_first[seed], key, explore=True
            )
            self._minds[seed] = Mind(state, memory)
        return np.stack([mind.memory.action for mind in self._minds])


class Mapped:
    """The functions of an `Agent` for S agents at once: what is each one's lies on a first axis S."""

    def __init__(self, agent: Agent, seeds: int):
        self.agent, self._seeds = agent, seeds
        self.train_chunk = jax.jit(self._train_chunk, donate_argnums=0)
        self.act = jax.jit(self._act)

    def _train_chunk(self, states: TrainState, batches: Batch, keys: jax.Array) -> tuple[TrainState, list[Metrics]]:
        """K updates of each, on batches [S, K, T, B]; the metrics are one by one."""
        states, metrics = jax.vmap(self.agent.train_chunk)(states, batches, keys)
        return states, [jax.tree.map(lambda v, seed=seed: v[seed], metrics) for seed in range(self._seeds)]

    def _act(self, world_models, actors, memories, observation, is_first, keys, env_step):
        """Explores, with keys [S] that `env_step` [] is folded into; the memories hold the actions [S, N, A]."""
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, env_step)
        act = jax.vmap(functools.partial(self.agent.act, explore=True))
        return act(world_models, actors, memories, observation, is_first, keys)


class Together:
    """The agents of S seeds as one: all that is theirs lies on a first axis, over which the programs are mapped.

    Sums may be added up in another order than in a single run; but for that noise each seed is its single run.
    """

    def __init__(self, mapped: Mapped, minds: Sequence[Mind], keys: Sequence[Keys]):
        self._mapped, self._seeds = mapped, len(minds)
        self._minds: Mind = stack(minds)
        self._keys: Keys = stack(keys)
        self.batches_held = 2 * self._seeds  # each by itself, and all on one axis

    def __getitem__(self, seed: int) -> Mind:
        return _pick(self._minds, seed)

    def train_chunk(self, samples: Samples) -> dict[int, Metrics]:
        """As in turn. If not all seeds are there, as where one's first episode ended early, they do take turns."""
        if len(samples) < self._seeds:
            return {seed: self._train_alone(seed, sample()) for seed, sample in samples.items()}
        batches = jax.tree.map(lambda *parts: np.stack(parts), *(sample() for sample in samples.values()))
        state, metrics = self._mapped.train_chunk(self._minds.state, batches, self._keys.learn)
        self._minds = self._minds._replace(state=state)
        return dict(zip(samples, metrics, strict=True))

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """Explores: observations [S, N, H, W, 3] uint8 and is_first [S, N] -> actions [S, N, A]."""
        state, memory = self._minds
        seen = (observation, is_first, self._keys.collect, env_step)
        memory = self._mapped.act(state.world_model, state.policy.actor, memory, *seen)
        self._minds = Mind(state, memory)
        return np.asarray(memory.action)

    def _train_alone(self, seed: int, batches: Batch) -> Metrics:
        state, metrics = self._mapped.agent.train_chunk(self[seed].state, batches, self._keys.learn[seed])
        self._minds = self._minds._replace(state=_put(self._minds.state, seed, state))
        return metrics


def side_by_side(agent: Agent, seeds: int) -> Mapped | None:
    """The programs of several seeds for a GPU, of which one agent leaves much idle; None where they take turns.

    A CPU has nothing to spare: there mapping costs memory and compilation, and gains nothing.
    """
    return Mapped(agent, seeds) if seeds > 1 and jax.default_backend() != "cpu" else None


@jax.jit
def stack(trees: Sequence[Any]) -> Any:
    """The leaves of equal trees on a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _pick(tree: Tree, seed: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[seed], tree)


@functools.partial(jax.jit, donate_argnums=0)
def _put(tree: Tree, seed: int, part: Tree) -> Tree:
    return jax.tree.map(lambda leaf, own: leaf.at[seed].set(own), tree, part)
