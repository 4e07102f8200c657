"""The replay on an accelerator: a copy of the rows to sample from; the compiled chunk of updates gathers the batches.

The replay on disk does not change, and still decides the batches: the same draws from the same generator, bit for bit.
This module records the place of each row on the device. It copies new rows from the files before sampling, so that a
resumed run fills the device in the same way.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.agent.batch import Gathered, Rows
from denoised_mdp.errors import UserError
from denoised_mdp.runs.replay import EVENLY, Recency, Replay

PIECE = 256  # rows per write: a fixed number, so that one compiled program suffices
SHARE = 0.8  # of the device's memory; the agent needs the rest


def rows_needed(*, capacity: int, env_steps: int, action_repeat: int, episode_frames: int, envs: int) -> int:
    """Returns the most rows that a run holds at a time, if its episodes have full length: each has a reset row too."""
    steps, length = -(-env_steps // action_repeat) + envs, -(-episode_frames // action_repeat)
    ever = steps + -(-steps // length) + envs
    held = max(capacity, length + 1) + envs * (length + 1)  # finished, and running
    return min(ever, held)


class DeviceReplay:
    """An array of R rows on the device, with the place of each row of a replay in it.

    Args:
        record: dtype of the replay's records.
        rows: R.
        device: a device or a sharding; None for the first device.
        share: the largest share of the device's memory for the rows.

    Raises:
        UserError: the device's memory is too small.
    """

    def __init__(
        self, record: np.dtype, rows: int, device: jax.sharding.Sharding | None = None, *, share: float = SHARE
    ):
        shapes = {name: record[name].shape for name in Rows._fields}
        shapes["observation"] = (int(np.prod(shapes["observation"])),)
        types = {name: record[name].base for name in Rows._fields}
        _check_fits(rows, sum(int(np.prod(shapes[name])) * types[name].itemsize for name in Rows._fields), share)
        self.rows = Rows(*(jnp.zeros((rows, *shapes[name]), types[name], device=device) for name in Rows._fields))
        self._size = rows
        self._free = np.arange(rows, dtype=np.int32)
        self._places: dict[int, NDArray[np.int32]] = {}  # by episode, the places of its rows
        self._replay: Replay | None = None

    def update(self, replay: Replay) -> None:
        """Copies new rows of `replay` and removes those that `replay` has forgotten; `sample` then draws from it.

        Raises:
            UserError: there are more rows than places.
        """
        self._replay = replay
        held = {episode.id: episode for episode in replay.sampled()}
        for id in self._places.keys() - held.keys():
            self._free = np.concatenate([self._free, self._places.pop(id)])
        for id, episode in held.items():
            old = self._places.get(id, self._free[:0])
            if len(old) == episode.length:
                continue
            new, self._free = np.split(self._free, [episode.length - len(old)])
            if len(old) + len(new) < episode.length:
                raise UserError(
                    f"replay.device=true: the replay has outgrown {self._size} rows, enough for episodes of full "
                    "length; the same command with replay.device=false resumes from the last checkpoint"
                )
            self._places[id] = np.concatenate([old, new])
            for start in range(len(old), episode.length, PIECE):
                places = self._places[id][start : start + PIECE]
                self._write(places, replay.rows(episode, start, len(places)))

    def sample(
        self, rng: np.random.Generator, updates: int, length: int, batch: int, recency: Recency = EVENLY
    ) -> Gathered:
        """Draws the same batches as `Replay.sample` with these arguments; the device gathers them later."""
        assert self._replay is not None, "update comes first"
        sequences = self._replay.draw(rng, updates, length, batch, recency)
        pieces = [piece for sequence in sequences for piece in sequence]
        places = np.concatenate([self._places[episode.id][start : start + count] for episode, start, count in pieces])
        return Gathered(self.rows, places.reshape(updates, batch, length).swapaxes(1, 2))

    def _write(self, places: NDArray[np.int32], records: NDArray[Any]) -> None:
        """Writes one piece. Rows that pad it to `PIECE` have a place out of bounds, so that jax drops them."""
        missing = PIECE - len(places)
        shapes = {name: array.shape[1:] for name, array in self.rows._asdict().items()}
        piece: list[Any] = [records[name].reshape(len(places), *shape) for name, shape in shapes.items()]
        padded = [np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for v in piece]
        self.rows = _written(self.rows, np.pad(places, (0, missing), constant_values=self._size), padded)


@functools.partial(jax.jit, donate_argnums=0)
def _written(rows: Rows, places: jax.Array, piece: list[jax.Array]) -> Rows:
    return Rows(*(array.at[places].set(new, mode="drop") for array, new in zip(rows, piece, strict=True)))


def _check_fits(rows: int, row_bytes: int, share: float) -> None:
    """Checks that the rows fit into the memory of the device, or of the machine if the device reports none."""
    stats = jax.devices()[0].memory_stats()
    has = stats["bytes_limit"] if stats else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if rows * row_bytes > share * has:
        raise UserError(
            f"replay.device=true: {rows} rows of {row_bytes} bytes take {rows * row_bytes / 2**30:.1f} GiB, more than "
            f"{share:.0%} of the device's {has / 2**30:.1f} GiB; choose a smaller replay.capacity, or "
            "replay.device=false"
        )
