"""Replay on disk: append-only files of episodes, uint8 frames, sampled as K batches of [T, B] sequences.

`episode_files.py` says what a file holds. T consecutive steps with all their fields are one `os.preadv` straight into
the arrays of the batch, so that resident memory is that of the batches alone, whatever the size of the replay. Every
`add` hands its record to the operating system at once: what a killed process has added stays. An episode that ends is
brought to the disk too, and so are those going on by `flush`, against a power cut.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from denoised_mdp.runs import episode_files
from denoised_mdp.runs.episode_files import FACTOR, Episode, ReplayError, StepLike, record_dtype


class Batch(NamedTuple):
    """K batches of B sequences of T steps, time-major."""

    observation: NDArray[np.uint8]  # [K, T, B, H, W, 3]
    action: NDArray[np.float32]  # [K, T, B, A], the action that led to the observation
    reward: NDArray[np.float32]  # [K, T, B], what that action earned
    is_first: NDArray[np.bool_]  # [K, T, B], the reset rows: no latent comes before them
    is_terminal: NDArray[np.bool_]  # [K, T, B], the episode ended for good, which a time limit is not
    factors: dict[str, NDArray[Any]]  # name -> [K, T, B, ...], empty unless asked for


class Piece(NamedTuple):
    """`length` rows of an episode from row `start` on: a whole sequence, or a part of one."""

    episode: Episode
    start: int
    length: int


class Replay:
    """Episodes of one or several environments in a folder, the oldest forgotten beyond `capacity` rows.

    A new replay in a folder that already holds episodes wants `restore` first: with the index of a checkpoint to go
    on from there, with None to start over. Not thread-safe: other threads read a `snapshot`.

    Args:
        directory: where the episodes and `spec.json` lie; made, if missing, by `restore` or the first `add`.
        observation_shape: (H, W, 3) of the uint8 frames.
        action_size: A.
        capacity: rows kept for sampling; as an episode ends, the oldest finished ones beyond it are forgotten, but
            never the newest.
        factors: ground truth to store beside each frame, taken from `step.info["factors"]`: name -> (dtype, shape).
        include_running: sample from the episodes still going on too; the paper samples complete episodes only.

    Raises:
        ReplayError: the folder holds a replay of other shapes, or `capacity` is not positive.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        observation_shape: tuple[int, ...],
        action_size: int,
        capacity: int,
        factors: Mapping[str, tuple[DTypeLike, tuple[int, ...]]] | None = None,
        include_running: bool = False,
    ) -> None:
        if capacity < 1:
            raise ReplayError(f"the replay's capacity is {capacity}, it must be at least 1 step")
        directory = Path(directory)
        dtype = record_dtype(observation_shape, action_size, factors or {})
        if (directory / "spec.json").exists():
            episode_files.check_same_record(directory, episode_files.read_spec(directory), dtype)
        self._set_up(directory, dtype, capacity=capacity, include_running=include_running, writable=True)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        *,
        observation_shape: tuple[int, ...] | None = None,
        action_size: int | None = None,
        include_running: bool = False,
    ) -> "Replay":
        """Opens another run's replay for reading; nothing is written, and that run may still be going on.

        It holds the steps written so far, until `refresh` looks again. `directory` is the replay's folder or its
        run's. The shapes, if given, are what the caller needs.

        Raises:
            ReplayError: no replay there, or one of other shapes.
        """
        directory = Path(directory)
        if not (directory / "spec.json").exists() and (directory / "replay" / "spec.json").exists():
            directory = directory / "replay"
        dtype = episode_files.read_spec(directory)
        for name, wanted in (("observation", observation_shape), ("action", (action_size,))):
            if wanted not in (None, (None,)) and dtype[name].shape != tuple(wanted):
                raise ReplayError(
                    f"{directory}: its {name}s have shape {dtype[name].shape}, this run needs {tuple(wanted)}"
                )
        replay = cls.__new__(cls)
        replay._set_up(directory, dtype, capacity=0, include_running=include_running, writable=False)
        replay.refresh()
        return replay

    def _set_up(
        self, directory: Path, dtype: np.dtype, *, capacity: int, include_running: bool, writable: bool
    ) -> None:
        self.directory = directory
        self.dtype = dtype
        self.capacity = capacity
        self.include_running = include_running
        self.factor_names = episode_files.factor_names(dtype)
        self._writable = writable
        self._small = np.dtype([(n, dtype[n]) for n in dtype.names or () if n != "observation"])
        self._finished: dict[int, Episode] = {}  # by id, the oldest first
        self._running: dict[int, Episode] = {}  # by stream
        self._open_files: dict[int, int] = {}  # by stream
        self._next_id = 0
        self._ready = False  # to be written to

    # Writing

    def add(self, step: StepLike, action: NDArray[np.floating] | None = None, stream: int = 0) -> None:
        """Appends a step and the action [A] that led to it; `is_first` begins a new episode, its action is ignored.

        `stream` tells environments that take turns apart. An episode of the stream that had not ended is kept as it
        is. The record has been handed to the operating system when this returns.

        Raises:
            ReplayError: a reward, an action or a factor is not finite; nothing is written then.
            ValueError: a first step is missing, shapes differ from the record's, or the replay is read-only.
        """
        self._need_writable("add")
        try:
            row = episode_files.record(self.dtype, step, action)
        except ReplayError as error:
            length = 0 if step.is_first or stream not in self._running else self._running[stream].length
            raise ReplayError(f"step {length} of an episode of environment {stream}: {error}") from None
        if not self._ready:
            if self.directory.exists() and episode_files.files(self.directory):
                raise ValueError(f"{self.directory} holds an earlier run's episodes: restore its index, or None, first")
            self._prepare()
        if step.is_first:
            self._finish(stream)
            self._running[stream] = Episode(self._next_id, stream, 0)
            self._next_id += 1
        elif stream not in self._running:
            raise ValueError(f"stream {stream} of the replay has no episode going on: is_first must come first")
        episode = self._running[stream]
        if stream not in self._open_files:
            path = self.directory / episode.file
            self._open_files[stream] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # At its place and not at the end: a record that an error cut short is written over.
        episode_files.write_at(self._open_files[stream], row.tobytes(), episode.length * self.dtype.itemsize)
        self._running[stream] = episode._replace(length=episode.length + 1)
        if step.is_last:
            self._finish(stream)

    def _prepare(self) -> None:
        episode_files.write_spec(self.directory, self.dtype)
        self._ready = True

    def _finish(self, stream: int) -> None:
        if episode := self._running.pop(stream, None):
            self._finished[episode.id] = episode
            self._finished = dict(sorted(self._finished.items()))
        if (file := self._open_files.pop(stream, None)) is not None:
            os.fsync(file)
            os.close(file)
        excess = self.num_steps - self.capacity
        while excess > 0 and len(self._finished) > 1:
            excess -= self._finished.pop(next(iter(self._finished))).length  # its file stays until `release`

    def flush(self) -> None:
        """Brings the running episodes to the disk (fsync); only a power cut needs it, before a checkpoint."""
        for file in self._open_files.values():
            os.fsync(file)

    def snapshot(self) -> "Replay":
        """The contents as they are now, read-only: another thread may read them while this replay goes on.

        What this replay forgets meanwhile stays there until `release`.
        """
        copy = Replay.__new__(Replay)
        copy._set_up(self.directory, self.dtype, capacity=0, include_running=self.include_running, writable=False)
        copy._finished, copy._running, copy._next_id = dict(self._finished), dict(self._running), self._next_id
        return copy

    def close(self) -> None:
        """Closes the files; adding opens them again."""
        for file in self._open_files.values():
            os.close(file)
        self._open_files.clear()

    # Checkpoints

    def index(self) -> dict[str, Any]:
        """The contents as plain JSON data, for the checkpoint: the episodes, which of them go on, the next id."""
        return {
            "finished": [list(episode) for episode in self._finished.values()],
            "running": [list(episode) for episode in self._running.values()],
            "next_id": self._next_id,
        }

    def restore(self, index: Mapping[str, Any] | None) -> None:
        """Goes back to the contents that `index()` described, bit by bit; None is a replay without episodes.

        Files that came later are deleted, those that grew are cut (a read-only replay only leaves them out). An
        episode that was running goes on, or is kept as it is if the next step of its stream is a first one.

        Raises:
            ReplayError: an episode of the index is missing or too short; nothing has been changed then.
        """
        index = index or {"finished": [], "running": [], "next_id": 0}
        finished = {episode[0]: Episode(*episode) for episode in index["finished"]}
        running = {episode[1]: Episode(*episode) for episode in index["running"]}
        known = {e.file: e for e in (*finished.values(), *running.values())}
        for episode in known.values():
            rows = episode_files.whole_records(self.directory / episode.file, self.dtype.itemsize)
            if rows < episode.length:
                raise ReplayError(
                    f"{self.directory}: {episode.file} has {rows} steps, the checkpoint's replay had {episode.length}"
                )
        if self._writable:
            self.close()
            self._prepare()
            for found in episode_files.files(self.directory):
                if found.file not in known:
                    (self.directory / found.file).unlink()
            for episode in known.values():
                os.truncate(self.directory / episode.file, episode.length * self.dtype.itemsize)
        self._finished, self._running, self._next_id = finished, running, index["next_id"]

    def release(self, index: Mapping[str, Any]) -> None:
        """Deletes the files of episodes forgotten before `index`, of the oldest checkpoint that is to stay restorable.

        What it and every later checkpoint name stays.
        """
        self._need_writable("release")
        oldest = min((episode[0] for episode in (*index["finished"], *index["running"])), default=0)
        held = {episode.id for episode in self.episodes()}
        for found in episode_files.files(self.directory):
            if found.id < oldest and found.id not in held:
                (self.directory / found.file).unlink()

    def refresh(self) -> None:
        """Looks again at what has been written to a replay that was opened read-only.

        Raises:
            ValueError: this replay is writable, and so always up to date.
        """
        if self._writable:
            raise ValueError(f"{self.directory}: refresh is for a replay that was opened read-only")
        self._finished.clear()
        self._running.clear()
        for found in episode_files.files(self.directory):
            rows = episode_files.whole_records(self.directory / found.file, self.dtype.itemsize)
            episode = found._replace(length=rows)
            if previous := self._running.pop(episode.stream, None):  # a later one of its stream has begun
                self._finished[previous.id] = previous
            if episode.length:
                self._running[episode.stream] = episode
        for episode in list(self._running.values()):
            if self.rows(episode, episode.length - 1, 1)["is_last"][0]:
                self._finished[episode.id] = self._running.pop(episode.stream)
        self._finished = dict(sorted(self._finished.items()))
        self._next_id = max((episode.id + 1 for episode in self.episodes()), default=0)

    # Reading

    @property
    def num_steps(self) -> int:
        """Rows held, the reset rows and the running episodes included."""
        return sum(episode.length for episode in self.episodes())

    @property
    def num_episodes(self) -> int:
        """Episodes that have ended."""
        return len(self._finished)

    def episodes(self) -> list[Episode]:
        """All episodes held, the oldest first, the running ones last."""
        return [*self._finished.values(), *self._running.values()]

    def episode(self, id: int) -> dict[str, NDArray[Any]]:
        """Every field of an episode, each [length, ...], by name; a factor is under "factors/" and its name.

        Raises:
            ValueError: there is no such episode.
        """
        for episode in self.episodes():
            if episode.id == id:
                rows = self.rows(episode, 0, episode.length)
                return {name: np.ascontiguousarray(rows[name]) for name in self.dtype.names or ()}
        raise ValueError(f"{self.directory} has no episode {id}, it has {[e.id for e in self.episodes()]}")

    def can_sample(self, length: int) -> bool:
        """Checks whether a sequence of `length` rows fits into one episode, or into short ones together."""
        return any(_rows_of(line) >= length for line in self._lines(length))

    def sample(
        self,
        rng: np.random.Generator,
        updates: int,
        length: int,
        batch: int,
        *,
        columns: Collection[int] | None = None,
        with_factors: bool = False,
    ) -> Batch:
        """Draws `updates` (K) batches of `batch` (B) sequences of `length` (T) steps.

        A sequence is of one episode, or, where episodes are shorter than that, of several, one after the other: each
        begins with a row that `is_first`. The outcome depends on `rng` and the contents alone, and is that of K calls
        for one batch. With `columns` only these of the B sequences are read, and B is their number in the result.

        Raises:
            ReplayError: there are not `length` rows, or a file has been deleted or cut meanwhile.
        """
        sequences = self.draw(rng, updates, length, batch)
        if columns is not None:
            sequences = [sequence for j, sequence in enumerate(sequences) if j % batch in columns]
            batch = len(columns)
        observation = np.empty((updates, length, batch, *self.dtype["observation"].shape), np.uint8)
        small = np.empty((updates, length, batch), self._small)
        frames, rests = _bytes_of(observation), _bytes_of(small)
        for j, sequence in enumerate(sequences):
            k, b = divmod(j, batch)
            rows = iter(range(k * length * batch + b, (k + 1) * length * batch, batch))  # [k, :, b] of the flat arrays
            for episode, start, count in sequence:
                parts = [part for row in islice(rows, count) for part in (frames[row], rests[row])]
                self._read(episode, start, parts)
        return Batch(
            observation=observation,
            action=np.ascontiguousarray(small["action"]),
            reward=np.ascontiguousarray(small["reward"]),
            is_first=np.ascontiguousarray(small["is_first"]),
            is_terminal=np.ascontiguousarray(small["is_terminal"]),
            factors={n: np.ascontiguousarray(small[FACTOR + n]) for n in self.factor_names if with_factors},
        )

    def draw(self, rng: np.random.Generator, updates: int, length: int, batch: int) -> list[list[Piece]]:
        """Draws what `sample` reads: the pieces of the K * B sequences, those of the first batch first.

        Every position where a sequence fits is equally likely, so that an episode counts by its number of them
        (as the reference does). Of an episode of N rows these are all N - T + 1, the last row included, where a
        termination stands. Episodes that have ended and are shorter than T count as one, in which they follow each
        other from the oldest on; the paper's tasks have none.

        Raises:
            ReplayError: there are not `length` rows.
        """
        lines = self._lines(length)
        fits = np.array([max(_rows_of(line) - length + 1, 0) for line in lines], np.int64)
        if length < 1 or not fits.any():
            kind = "" if self.include_running else "finished "
            longest = max((episode.length for episode in self.sampled()), default=0)
            raise ReplayError(
                f"{self.directory}: sequences of {length} steps wanted, the longest {kind}episode has {longest}"
            )
        ends = np.cumsum(fits)
        draws = rng.integers(ends[-1], size=updates * batch)
        which = np.searchsorted(ends, draws, side="right")
        starts = draws - (ends - fits)[which]
        first_rows = {i: np.cumsum([0] + [episode.length for episode in lines[i]]) for i in set(which.tolist())}
        return [
            _pieces(lines[i], first_rows[i], start, length)
            for i, start in zip(which.tolist(), starts.tolist(), strict=True)
        ]

    def _lines(self, length: int) -> list[list[Episode]]:
        """Returns the sources of sequences of `length` rows: each long episode; last, all short ones that ended."""
        sampled = self.sampled()
        long = [[episode] for episode in sampled if episode.length >= length]
        short = [episode for episode in sampled if episode.length < length and episode.id in self._finished]
        return [*long, short] if short else long

    def sampled(self) -> list[Episode]:
        """The episodes to sample from, the oldest first: those that have ended, and the others if so asked."""
        return self.episodes() if self.include_running else list(self._finished.values())

    def rows(self, episode: Episode, start: int, count: int) -> NDArray[Any]:
        """`count` records of an episode from row `start` on."""
        rows = np.empty(count, self.dtype)
        self._read(episode, start, [rows.view(np.uint8).data])
        return rows

    def _read(self, episode: Episode, start: int, parts: Sequence[memoryview]) -> None:
        """Fills `parts` with the bytes of the episode from row `start` on."""
        episode_files.read_into(self.directory / episode.file, start * self.dtype.itemsize, parts)

    def _need_writable(self, what: str) -> None:
        if not self._writable:
            raise ValueError(f"{self.directory} was opened read-only: it takes no {what}")


def _rows_of(line: Sequence[Episode]) -> int:
    return sum(episode.length for episode in line)


def _pieces(line: Sequence[Episode], first_rows: NDArray[np.int64], start: int, length: int) -> list[Piece]:
    """`length` rows from row `start` of a line of episodes on; `first_rows`: where in the line each begins."""
    pieces, i = [], int(np.searchsorted(first_rows, start, side="right")) - 1
    while length:
        begin = start - int(first_rows[i])
        count = min(length, line[i].length - begin)
        pieces.append(Piece(line[i], begin, count))
        start, length, i = start + count, length - count, i + 1
    return pieces


def _bytes_of(array: NDArray[Any]) -> list[memoryview]:
    """The memory of a contiguous [K, T, B, ...] array as K * T * B pieces, written through."""
    flat = array.reshape(-1).view(np.uint8).data
    size = array[:1, :1, :1].nbytes
    return [flat[i : i + size] for i in range(0, flat.nbytes, size)]
