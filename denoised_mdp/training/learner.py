"""Acting and learning: one agent, or one per seed, each in its turn. `learn` makes the gradient updates.

The other learners have the same four methods, and only settings that are off by default need them: `vectorized`
(all seeds in one program), `devices` (several devices or processes), `background` (updates beside collecting).
Shapes: S = seeds, N = environments of each; all other letters are those of `agent`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from denoised_mdp.agent import ActingState, Agent, TrainState
from denoised_mdp.agent.batch import Gathered
from denoised_mdp.runs import metrics as listed
from denoised_mdp.runs.replay import Batch, Replay
from denoised_mdp.training.speeds import Speeds

Metrics = dict[str, jax.Array]
WATCHED = ("model/loss", "policy/actor_loss", "policy/critic_loss")  # a run ends where one is not finite
Made = dict[int, tuple[int, dict[str, float]]]  # by seed: how many updates, and their mean metrics


class AgentSnapshot(NamedTuple):
    """All of an agent that changes."""

    state: TrainState  # the learned state
    memory: ActingState  # the memory of the current episodes


class Keys(NamedTuple):
    """The random streams of an agent."""

    learn: jax.Array
    collect: jax.Array


class Seed(NamedTuple):
    """The inputs of a learner for one seed."""

    snapshot: AgentSnapshot  # where it starts
    keys: Keys
    sample: Callable[[Replay, int], Batch | Gathered]  # draws the batches [K, T, B] of K updates from a replay


class Learner(Protocol):
    """Agents, by the number of their seed: how they learn, and how they act meanwhile."""

    @property
    def in_flight(self) -> Mapping[int, int]: ...  # by seed, updates that run while the caller continues

    def learn(self, owed: Mapping[int, int], contents: Mapping[int, Replay]) -> Made:
        """Makes the owed number of updates of each seed, on batches from these replays."""
        ...

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """Explores: observations [S, N, H, W, 3] uint8 and is_first [S, N] -> actions [S, N, A]."""
        ...

    def publish_parameters(self) -> None:
        """Lets `act` use the parameters learned so far."""
        ...

    def snapshot(self, seed: int) -> AgentSnapshot:
        """Returns the state of a seed for evaluating and saving; only while no update is in flight."""
        ...


class Pace(NamedTuple):
    """The division of updates into calls of a compiled program, and their early stop."""

    updates_per_call: int  # calls of another length compile again
    interrupted: Callable[[], bool]
    speeds: Speeds

    def calls(self, owed: Mapping[int, int]) -> Iterator[tuple[int, list[int]]]:
        """Yields the number of updates of each call, and the seeds that it updates."""
        while owed and not self.interrupted():
            updates = min(self.updates_per_call, *owed.values())
            yield updates, list(owed)
            owed = {seed: left for seed, n in owed.items() if (left := n - updates)}


class Tally:
    """Collects the results of calls, while the device may still work on the last two of them.

    Meanwhile the batches of the next call are drawn. Without this limit, batches would pile up in memory where the
    device is slower than the drawing.
    """

    def __init__(self, seeds: Mapping[int, int]):
        self._calls: dict[int, list[tuple[int, Metrics]]] = {seed: [] for seed in seeds}
        self._last: dict[int, Metrics] = {}

    def add(self, updates: int, metrics: dict[int, Metrics]) -> None:
        """Adds one call, with the mean metrics of each seed; waits for the call before it."""
        jax.block_until_ready(self._last)
        self._last = metrics
        for seed, means in metrics.items():
            self._calls[seed].append((updates, means))

    def made(self) -> Made:
        """Waits for the last call. The metrics are means over the calls."""
        return {seed: (sum(updates for updates, _ in calls), _means(calls)) for seed, calls in self._calls.items()}


def _means(calls: Sequence[tuple[int, Metrics]]) -> dict[str, float]:
    names = calls[0][1] if calls else ()
    return {name: float(np.mean([metrics[name] for _, metrics in calls])) for name in names}


def check_metrics(agent: Agent, record: np.dtype, shape: tuple[int, int, int]) -> None:
    """Checks that the metrics of an update are listed, by tracing the update before anything is collected.

    The first call of `train_chunk` then need not trace it again. `record`: of the replay; `shape`: K, T, B.

    Raises:
        ValueError: a name is not listed, or a loss that is watched is missing.
    """
    fields: list[Any] = [
        jax.ShapeDtypeStruct((*shape, *record[name].shape), record[name].base) for name in Batch._fields[:-1]
    ]
    _, metrics = jax.eval_shape(agent.train_chunk, agent.shapes(), Batch(*fields, factors={}), jax.random.key(0))
    listed.check(metrics)
    if missing := [name for name in WATCHED if name not in metrics]:
        raise ValueError(f"an update returns no metric {', '.join(missing)}: it stops a run that is not finite")


def as_it_is(tree: Any) -> Any:
    """Returns the same arrays: the actor computes where the learner does."""
    return tree


class SequentialLearner:
    """One agent, or several that take turns with the programs of a single run.

    to_actor: copies parameters and keys to the device that computes actions.
    """

    in_flight: Mapping[int, int] = {}  # none: updates are complete when `learn` returns

    def __init__(self, agent: Agent, seeds: Sequence[Seed], pace: Pace, *, to_actor: Callable[[Any], Any] = as_it_is):
        self._agent, self._pace, self._to_actor = agent, pace, to_actor
        self._train_chunk = agent.train_chunk
        self._samplers = [seed.sample for seed in seeds]
        self._states = [seed.snapshot.state for seed in seeds]
        self._memories = [seed.snapshot.memory for seed in seeds]
        self._learn_keys = [seed.keys.learn for seed in seeds]
        self._collect_keys = [to_actor(seed.keys.collect) for seed in seeds]
        self.publish_parameters()

    def learn(self, owed: Mapping[int, int], contents: Mapping[int, Replay]) -> Made:
        """See `Learner`."""
        tally = Tally(owed)
        with self._pace.speeds.learning():
            for updates, seeds in self._pace.calls(owed):
                metrics: dict[int, Metrics] = {}
                for seed in seeds:
                    batches = self._samplers[seed](contents[seed], updates)
                    state, metrics[seed] = self._train_chunk(self._states[seed], batches, self._learn_keys[seed])
                    self._states[seed] = state
                tally.add(updates, metrics)
            return tally.made()

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """See `Learner`."""
        for seed, parameters in enumerate(self._acting):
            key = jax.random.fold_in(self._collect_keys[seed], env_step)
            self._memories[seed] = self._agent.act(
                parameters, self._memories[seed], observation[seed], is_first[seed], key, explore=True
            )
        return np.stack([memory.action for memory in self._memories])

    def publish_parameters(self) -> None:
        """See `Learner`."""
        self._acting = self._to_actor([self._agent.acting(self._state(seed)) for seed in range(len(self._states))])

    def snapshot(self, seed: int) -> AgentSnapshot:
        """See `Learner`."""
        return AgentSnapshot(self._state(seed), self._memories[seed])

    def _state(self, seed: int) -> TrainState:
        """Returns the learned state of a seed, where its program can use it alone."""
        return self._states[seed]
