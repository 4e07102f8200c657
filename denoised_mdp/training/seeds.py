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
from denoised_mdp.agent.batch import Gathered, Rows, gather
from denoised_mdp.runs.replay import Batch
from denoised_mdp.training.background import copied
from denoised_mdp.training.devices import Devices

Tree = TypeVar("Tree")
Metrics = dict[str, jax.Array]
Samples = Mapping[int, Callable[[], Batch | Gathered]]  # by seed, what draws its next batches [K, T, B]


class Mind(NamedTuple):
    """All that changes of an agent."""

    state: TrainState  # what it has learned
    memory: ActingState  # what it remembers of the episodes going on


class Learned(NamedTuple):
    """What an agent acts with."""

    world_model: Any
    actor: Any


class Keys(NamedTuple):
    """The streams that an agent draws from."""

    learn: jax.Array
    collect: jax.Array


class InTurn:
    """One agent, or several, each of which takes its turn with the programs of a single run.

    What acts is what `hand_over` gave last. If `stale`, it is a copy, and updates may be computed beside it.
    """

    def __init__(
        self, agent: Agent, minds: Sequence[Mind], keys: Sequence[Keys], devices: Devices, *, stale: bool = False
    ):
        self._agent, self._devices, self._stale = agent, devices, stale
        self.batches_held = len(minds)  # in memory at a time
        self._train_chunk = devices.compiled(agent.train_chunk)
        self._states = [devices.replicate(mind.state) for mind in minds]
        self._memories = [mind.memory for mind in minds]
        self._learn_keys = [devices.replicate(key.learn) for key in keys]
        self._collect_keys = [copied(key.collect) if stale else key.collect for key in keys]
        self.hand_over()

    def __getitem__(self, seed: int) -> Mind:
        return Mind(self._devices.local(self._states[seed]), self._memories[seed])

    def hand_over(self) -> None:
        """What has been learned so far acts from now on."""
        learned = [self._devices.local(Learned(s.world_model, s.policy.actor)) for s in self._states]
        self._acting = copied(learned) if self._stale else learned

    def train_chunk(self, samples: Samples) -> dict[int, Metrics]:
        """K updates of these seeds. Their mean metrics [] may still be on their way."""
        found = {}
        for seed, sample in samples.items():
            batches = self._devices.divide(sample())
            self._states[seed], found[seed] = self._train_chunk(self._states[seed], batches, self._learn_keys[seed])
        return found

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """Explores: observations [S, N, H, W, 3] uint8 and is_first [S, N] -> actions [S, N, A]."""
        for seed, (world_model, actor) in enumerate(self._acting):
            key = jax.random.fold_in(self._collect_keys[seed], env_step)
            self._memories[seed] = self._agent.act(
                world_model, actor, self._memories[seed], observation[seed], is_first[seed], key, explore=True
            )
        return np.stack([memory.action for memory in self._memories])


class Mapped:
    """The functions of an `Agent` for S agents at once: what is each one's lies on a first axis S, maybe divided."""

    def __init__(self, agent: Agent, seeds: int, divided: jax.sharding.Sharding | None = None):
        self.agent, self._seeds = agent, seeds
        # Said, or empty arrays come back whole, and the next call would compile anew.
        self.train_chunk = jax.jit(self._train_chunk, donate_argnums=0, out_shardings=(divided, None))
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

    Of several devices each has its share of the seeds. Sums may be added up in another order than in a single run; but
    for that noise each seed is its single run. `stale` as in turn.
    """

    def __init__(
        self, mapped: Mapped, minds: Sequence[Mind], keys: Sequence[Keys], devices: Devices, *, stale: bool = False
    ):
        self._mapped, self._seeds, self._devices, self._stale = mapped, len(minds), devices, stale
        self._states: TrainState = devices.divide_seeds(stack([mind.state for mind in minds]))
        self._memories: ActingState = stack([mind.memory for mind in minds])
        self._learn_keys = stack([key.learn for key in keys])
        collect_keys = stack([key.collect for key in keys])
        self._collect_keys = copied(collect_keys) if stale else collect_keys
        self.batches_held = 2 * self._seeds  # each by itself, and all on one axis
        self.hand_over()

    def __getitem__(self, seed: int) -> Mind:
        return Mind(*(_pick(self._devices.gather(tree), seed) for tree in (self._states, self._memories)))

    def hand_over(self) -> None:
        """What has been learned so far acts from now on."""
        learned = self._devices.gather(Learned(self._states.world_model, self._states.policy.actor))
        self._acting = copied(learned) if self._stale else learned

    def train_chunk(self, samples: Samples) -> dict[int, Metrics]:
        """As in turn. If not all seeds are there, as where one's first episode ended early, they do take turns."""
        if len(samples) < self._seeds:
            return {seed: self._train_alone(seed, self._devices.gather(sample())) for seed, sample in samples.items()}
        batches = self._devices.divide_seeds(_on_one_axis([sample() for sample in samples.values()]))
        self._states, metrics = self._mapped.train_chunk(self._states, batches, self._learn_keys)
        return dict(zip(samples, metrics, strict=True))

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """Explores: observations [S, N, H, W, 3] uint8 and is_first [S, N] -> actions [S, N, A]."""
        seen = (observation, is_first, self._collect_keys, env_step)
        self._memories = self._mapped.act(*self._acting, self._memories, *seen)
        return np.asarray(self._memories.action)

    def _train_alone(self, seed: int, batches: Any) -> Metrics:
        state = _pick(self._devices.gather(self._states), seed)
        state, metrics = self._mapped.agent.train_chunk(state, batches, self._learn_keys[seed])
        self._states = self._devices.divide_seeds(_put(self._devices.gather(self._states), seed, state))
        return metrics


def side_by_side(agent: Agent, seeds: int, devices: Devices) -> Mapped | None:
    """The programs of several seeds for a GPU, of which one agent leaves much idle; None where they take turns.

    A CPU has nothing to spare: there mapping costs memory and compilation, and gains nothing.
    """
    wanted = seeds > 1 and (devices.several or jax.default_backend() != "cpu")
    return Mapped(agent, seeds, devices.by_seed) if wanted else None


@jax.jit
def stack(trees: Sequence[Any]) -> Any:
    """The leaves of equal trees on a new first axis."""
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
