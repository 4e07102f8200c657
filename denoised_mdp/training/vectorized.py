"""The agents of several seeds side by side in one program, for a GPU that one agent leaves mostly idle.

Shapes: S = seeds, N = environments of each; all other letters are those of `agent`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from denoised_mdp.agent import ActingState, Agent, TrainState
from denoised_mdp.agent.batch import Gathered, Rows, gather
from denoised_mdp.runs.replay import Batch, Replay
from denoised_mdp.training.devices import Devices
from denoised_mdp.training.learner import (
    AgentSnapshot,
    Made,
    Metrics,
    Pace,
    Seed,
    Tally,
    as_it_is,
)

Tree = TypeVar("Tree")


class VectorizedAgent:
    """The functions of an `Agent` for S agents at once: their arrays have a first axis S, which may be divided."""

    def __init__(self, agent: Agent, seeds: int, divided: jax.sharding.Sharding | None = None):
        self.agent, self._seeds = agent, seeds
        # Without out_shardings empty arrays come back whole, and the next call compiles again.
        self.train_chunk = jax.jit(self._train_chunk, donate_argnums=0, out_shardings=(divided, None))
        self.act = jax.jit(self._act)

    def _train_chunk(self, states: TrainState, batches: Batch, keys: jax.Array) -> tuple[TrainState, list[Metrics]]:
        """Makes K updates of each agent, on batches [S, K, T, B]; returns one set of metrics per agent."""
        states, metrics = jax.vmap(self.agent.train_chunk)(states, batches, keys)
        return states, [jax.tree.map(lambda v, seed=seed: v[seed], metrics) for seed in range(self._seeds)]

    def _act(self, parameters, memories, observation, is_first, keys, env_step):
        """Explores, with keys [S] that `env_step` [] is folded into; the memories hold the actions [S, N, A]."""
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, env_step)
        act = jax.vmap(functools.partial(self.agent.act, explore=True))
        return act(parameters, memories, observation, is_first, keys)


def vectorized_agent(agent: Agent, seeds: int, devices: Devices) -> VectorizedAgent | None:
    """Returns the programs of several seeds; None where they take turns.

    A CPU has no idle capacity: there vectorizing costs memory and compilation, and gains nothing.
    """
    worth_it = seeds > 1 and (devices.several or jax.default_backend() != "cpu")
    return VectorizedAgent(agent, seeds, devices.by_seed) if worth_it else None


class VectorizedLearner:
    """The agents of S seeds as one: all their arrays have a first axis, over which the programs are mapped.

    Each of several devices has its share of the seeds. Sums may have another order than in a single run; except for
    that rounding each seed equals its single run. `to_actor` as in `SequentialLearner`.
    """

    in_flight: Mapping[int, int] = {}

    def __init__(
        self,
        agents: VectorizedAgent,
        seeds: Sequence[Seed],
        pace: Pace,
        devices: Devices,
        *,
        to_actor: Callable[[Any], Any] = as_it_is,
    ):
        self._agents, self._pace, self._devices, self._to_actor = agents, pace, devices, to_actor
        self._samplers = [seed.sample for seed in seeds]
        self._states: TrainState = devices.divide_seeds(stack([seed.snapshot.state for seed in seeds]))
        self._memories: ActingState = stack([seed.snapshot.memory for seed in seeds])
        self._learn_keys = stack([seed.keys.learn for seed in seeds])
        self._collect_keys = to_actor(stack([seed.keys.collect for seed in seeds]))
        self.publish_parameters()

    def learn(self, owed: Mapping[int, int], contents: Mapping[int, Replay]) -> Made:
        """See `Learner`."""
        tally = Tally(owed)
        with self._pace.speeds.learning():
            for updates, seeds in self._pace.calls(owed):
                batches = {seed: self._samplers[seed](contents[seed], updates) for seed in seeds}
                tally.add(updates, self._train(batches))
            return tally.made()

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """See `Learner`."""
        seen = (observation, is_first, self._collect_keys, env_step)
        self._memories = self._agents.act(self._acting, self._memories, *seen)
        return np.asarray(self._memories.action)

    def publish_parameters(self) -> None:
        """See `Learner`."""
        self._acting = self._to_actor(self._devices.gather(self._agents.agent.acting(self._states)))

    def snapshot(self, seed: int) -> AgentSnapshot:
        """See `Learner`."""
        return AgentSnapshot(*(_pick(self._devices.gather(tree), seed) for tree in (self._states, self._memories)))

    def _train(self, batches: Mapping[int, Batch | Gathered]) -> dict[int, Metrics]:
        """Makes K updates of these seeds: one by one if some seeds are missing, as when an episode ended early."""
        if len(batches) < len(self._samplers):
            return {seed: self._train_alone(seed, self._devices.gather(own)) for seed, own in batches.items()}
        together = self._devices.divide_seeds(_on_one_axis(list(batches.values())))
        self._states, metrics = self._agents.train_chunk(self._states, together, self._learn_keys)
        return dict(zip(batches, metrics, strict=True))

    def _train_alone(self, seed: int, batches: Any) -> Metrics:
        state = _pick(self._devices.gather(self._states), seed)
        state, metrics = self._agents.agent.train_chunk(state, batches, self._learn_keys[seed])
        self._states = self._devices.divide_seeds(_put(self._devices.gather(self._states), seed, state))
        return metrics


@jax.jit
def stack(trees: Sequence[Any]) -> Any:
    """Stacks the leaves of equal trees on a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _on_one_axis(batches: Sequence[Batch | Gathered]) -> Batch | Rows:
    """S times [K, T, B] -> [S, K, T, B]; from replays on the device without leaving it."""
    gathered = [batch for batch in batches if isinstance(batch, Gathered)]
    return _stack_gathered(gathered) if gathered else jax.tree.map(lambda *parts: np.stack(parts), *batches)


@jax.jit
def _stack_gathered(batches: Sequence[Gathered]) -> Rows:
    return stack([gather(*batch) for batch in batches])


@jax.jit
def _pick(tree: Tree, seed: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[seed], tree)


@functools.partial(jax.jit, donate_argnums=0)
def _put(tree: Tree, seed: int, part: Tree) -> Tree:
    return jax.tree.map(lambda leaf, own: leaf.at[seed].set(own), tree, part)
