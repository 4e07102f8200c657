"""Several devices, in one or several processes: each computes its share of every batch, all hold the whole state.

XLA divides the program: every result of a batch is divided as the batch is, and gradients are summed over the devices.
Thus the numbers of a run are those of one device, except for the order of sums.

The first of several processes is the main process: it collects, evaluates and writes the run's folder. The others use
the replay there and the same random draws, but read only their share of every batch; before updates the main process
broadcasts the state of the replay.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from denoised_mdp.agent import Agent, TrainState
from denoised_mdp.errors import UserError, one_line
from denoised_mdp.model.sharding import AXIS
from denoised_mdp.runs.replay import Replay
from denoised_mdp.training.learner import AgentSnapshot, Learner, Made, Pace, Seed, SequentialLearner, as_it_is

END = "end"  # broadcast when the main process is done


def join_processes() -> None:
    """Joins this process to others, as SLURM, Open MPI or JAX_COORDINATOR_ADDRESS specify; before any computation.

    Raises:
        UserError: the variables name no other processes, or these cannot be reached.
    """
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(f"distributed=true: jax finds no other processes: {one_line(error)}") from None


class Devices:
    """The devices that compute updates, the first ones of every process.

    Args:
        count: of each process.
        batch_size: B, to be divided among all of them.
        seeds: if there are several, the seeds are divided instead.

    Raises:
        UserError: there are fewer devices, or what they share cannot be divided.
    """

    def __init__(self, count: int, batch_size: int, seeds: int = 1):
        here = jax.local_device_count()
        if count > here:
            raise UserError(f"devices={count}: there are {here} ({jax.default_backend()})")
        self.processes, process = jax.process_count(), jax.process_index()
        self.is_main_process = process == 0
        total = count * self.processes
        shared, what = (
            (seeds, f"{seeds} unfinished seeds") if seeds > 1 else (batch_size, f"train.batch_size={batch_size}")
        )
        if shared % total:
            of_each = "" if self.processes == 1 else f" in each of {self.processes} processes"
            raise UserError(f"{what}: cannot be divided among devices={count}{of_each}")
        self.several, self.seeds = total > 1, seeds
        share = batch_size // self.processes
        # The sequences of a batch that this process reads: None for all of them.
        self.columns = None if self.processes == 1 else range(share * process, share * (process + 1))
        used = [d for p in range(self.processes) for d in jax.local_devices(p)[:count]]
        mesh = jax.make_mesh((total,), (AXIS,), (AxisType.Auto,), devices=used)
        self._mesh, self._divided = mesh, NamedSharding(mesh, PartitionSpec(None, None, AXIS))
        self.whole = NamedSharding(mesh, PartitionSpec()) if self.several else None  # of arrays that all devices hold
        self.by_seed = NamedSharding(mesh, PartitionSpec(AXIS)) if self.several else None  # of arrays [S, ...]

    def replicate(self, tree: Any) -> Any:
        """Puts the same arrays on every device, random keys too."""

        def replicated(array: jax.Array) -> jax.Array:
            if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(replicated(jax.random.key_data(array)))
            return jax.make_array_from_process_local_data(self.whole, np.asarray(array), array.shape)

        return jax.tree.map(replicated, tree) if self.several else tree

    def local(self, tree: Any) -> Any:
        """Returns the copy of replicated arrays on this process's first device, where it can compute alone."""
        return jax.tree.map(lambda v: v.addressable_data(0), tree) if self.several else tree

    def divide(self, batches: Any) -> Any:
        """Divides numpy arrays [K, T, B, ...], the `columns` of B of this process, over the devices of all."""

        def divided(array: Any) -> Any:
            on_device = isinstance(array, jax.Array)
            return array if on_device else jax.make_array_from_process_local_data(self._divided, array)

        return jax.tree.map(divided, batches) if self.several else batches

    def divide_seeds(self, tree: Any) -> Any:
        """Divides arrays [S, ...]: each device gets its share of the seeds."""
        return jax.device_put(tree, self.by_seed) if self.several else tree

    def gather(self, tree: Any) -> Any:
        """Returns divided arrays as whole ones on the first device."""
        return jax.device_put(tree, jax.local_devices()[0]) if self.several else tree

    def broadcast(self, message: Any = None) -> Any:
        """Returns in every process the message of the main process, plain JSON data; waits until all have called it."""
        if self.processes == 1:
            return message
        text = np.frombuffer(json.dumps(message).encode() if self.is_main_process else b"", np.uint8)
        size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
        padded = np.zeros(1 << size.bit_length(), np.uint8)  # few lengths, as each new one compiles again
        padded[: text.size] = text
        received = np.asarray(multihost_utils.broadcast_one_to_all(padded))
        return json.loads(received[:size].tobytes())

    def compiled(self, train_chunk: Callable[..., Any]) -> Any:
        """Compiles `Agent.train_chunk` for divided batches; state and metrics come back whole on every device."""
        if not self.several:
            return train_chunk

        def divided(*arguments: Any) -> Any:
            with jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh):
                return train_chunk(*arguments)

        return jax.jit(divided, donate_argnums=0, out_shardings=self.whole)


class DividedLearner(SequentialLearner):
    """One agent with batches that are divided among several devices, of this process or of all."""

    def __init__(
        self,
        agent: Agent,
        seeds: Sequence[Seed],
        pace: Pace,
        devices: Devices,
        *,
        to_actor: Callable[[Any], Any] = as_it_is,
    ):
        self._devices = devices
        super().__init__(agent, [self._replicated(seed) for seed in seeds], pace, to_actor=to_actor)
        self._train_chunk = devices.compiled(agent.train_chunk)

    def _replicated(self, seed: Seed) -> Seed:
        replicate, divide = self._devices.replicate, self._devices.divide
        return Seed(
            seed.snapshot._replace(state=replicate(seed.snapshot.state)),
            seed.keys._replace(learn=replicate(seed.keys.learn)),
            lambda contents, updates: divide(seed.sample(contents, updates)),
        )

    def _state(self, seed: int) -> TrainState:
        return self._devices.local(self._states[seed])


class BroadcastingLearner:
    """The learner of the main process; it makes the other processes compute their share of every update."""

    in_flight: Mapping[int, int] = {}

    def __init__(self, learner: Learner, devices: Devices):
        self._learner, self._devices = learner, devices

    def learn(self, owed: Mapping[int, int], contents: Mapping[int, Replay]) -> Made:
        """See `Learner`."""
        if owed:
            self._devices.broadcast({"replay": contents[0].index(), "updates": owed[0]})
        return self._learner.learn(owed, contents)

    def act(self, observation: np.ndarray, is_first: np.ndarray, env_step: int) -> np.ndarray:
        """See `Learner`."""
        return self._learner.act(observation, is_first, env_step)

    def publish_parameters(self) -> None:
        """See `Learner`."""
        self._learner.publish_parameters()

    def snapshot(self, seed: int) -> AgentSnapshot:
        """See `Learner`."""
        return self._learner.snapshot(seed)


def follow(learner: Learner, devices: Devices, replay: Replay) -> None:
    """Computes this process's share of the updates until the main process is done; for all processes but that one."""
    while (block := devices.broadcast()) != END:
        replay.restore(block["replay"])
        learner.learn({0: block["updates"]}, {0: replay})
