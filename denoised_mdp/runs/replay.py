"""Replay on disk: append-only files of episodes, uint8 frames, sampled as K batches of [T, B] sequences.

`episode_files.py` has the format of a file. One `os.preadv` reads T consecutive steps with all their fields into the
arrays of the batch, so that only the batches are in memory, whatever the size of the replay. Every `add` hands its
record to the operating system at once: a kill loses no step. Against a power cut, the end of an episode and `flush`
bring records to the disk.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from denoised_mdp.runs import disk, episode_files
from denoised_mdp.runs.episode_files import FACTOR, Episode, ReplayError, StepLike, record_dtype


class Batch(NamedTuple):
    """K batches of B sequences of T steps, time-major."""

    observation: NDArray[np.uint8]  # [K, T, B, H, W, 3]
    action: NDArray[np.float32]  # [K, T, B, A], the action that led to the observation
    reward: NDArray[np.float32]  # [K, T, B], the reward of that action
    is_first: NDArray[np.bool_]  # [K, T, B], the reset rows: no latent precedes them
    is_terminal: NDArray[np.bool_]  # [K, T, B], the episode ended for good, which a time limit is not
    factors: dict[str, NDArray[Any]]  # name -> [K, T, B, ...], empty unless asked for


class Piece(NamedTuple):
    """`length` rows of an episode from row `start` on: a whole sequence, or a part of one."""

    episode: Episode
    start: int
    length: int


class Recency(NamedTuple):
    """A preference for new episodes: `share` of the sequences comes from the newest `episodes` alone."""

    share: float = 0.0
    episodes: int = 1


EVENLY = Recency()  # every position alike


class Replay:
    """Episodes of one or several environments in a folder. Beyond `capacity` rows it forgets the oldest ones.

    If the folder already holds episodes, call `restore` first: with the index of a checkpoint to resume from there,
    with None to start over. Not thread-safe: other threads read a `snapshot`.

    Args:
        directory: the folder of the episodes and `spec.json`; `restore` or the first `add` makes it if it is missing.
        observation_shape: (H, W, 3) of the uint8 frames.
        action_size: A.
        capacity: rows kept for sampling. When an episode ends, the oldest finished ones beyond it are forgotten, but
            never the newest.
        factors: ground truth to store beside each frame, taken from `step.info["factors"]`: name -> (dtype, shape).
        include_running: sample from running episodes too; the paper samples complete episodes only.

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
        """Opens another run's replay for reading; writes nothing. That run may still add steps.

        The result contains the steps written so far; `refresh` adds later ones. `directory` is the folder of the
        replay or of its run. The shapes, if given, are those that the caller needs.

        Raises:
            ReplayError: the folder holds no replay, or one of other shapes.
        """
        directory = Path(directory)
        if not (directory / "spec.json").exists() and (directory / "replay" / "spec.json").exists():
            directory = directory / "replay"
        dtype = episode_files.read_spec(directory)
        for name, needed in (("observation", observation_shape), ("action", (action_size,))):
            if needed not in (None, (None,)) and dtype[name].shape != tuple(needed):
                raise ReplayError(
                    f"{directory}: its {name}s have shape {dtype[name].shape}, this run needs {tuple(needed)}"
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
        self._checksums: dict[int, int] = {}  # of all rows of an episode, by its id; a read-only replay has none
        self._next_id = 0
        self._ready = False  # True once the folder and `spec.json` exist

    # Writing

    def add(self, step: StepLike, action: NDArray[np.floating] | None = None, stream: int = 0) -> None:
        """Appends a step and the action [A] that led to it. `is_first` begins a new episode and ignores the action.

        `stream` is the number of the environment. A new episode leaves an unfinished one of its stream as it is. The
        operating system has the record when this method returns.

        Raises:
            ReplayError: a reward, an action or a factor is not finite; then nothing is written.
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
            raise ValueError(f"stream {stream} of the replay has no running episode: begin one with is_first")
        episode = self._running[stream]
        if stream not in self._open_files:
            path = self.directory / episode.file
            self._open_files[stream] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # At its place and not at the end: a record that an error cut short is written over.
        record = row.tobytes()
        episode_files.write_at(self._open_files[stream], record, episode.length * self.dtype.itemsize)
        self._checksums[episode.id] = disk.checksum(record, self._checksums.get(episode.id, 0))
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
            oldest = self._finished.pop(next(iter(self._finished)))  # its file stays until `release`
            self._checksums.pop(oldest.id)
            excess -= oldest.length

    def flush(self) -> None:
        """Writes running episodes through to the disk (fsync), before a checkpoint; it matters only in a power cut."""
        for file in self._open_files.values():
            os.fsync(file)
        if self._ready:
            disk.sync(self.directory)

    def snapshot(self) -> "Replay":
        """Returns the present contents, read-only: another thread may read them while this replay changes.

        Episodes that this replay forgets meanwhile stay readable there until `release`.
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
        """Returns the contents as plain JSON data for the checkpoint.

        These are the finished and the running episodes, the next id, and checksums of the episodes by their id.
        """
        return {
            "finished": [list(episode) for episode in self._finished.values()],
            "running": [list(episode) for episode in self._running.values()],
            "next_id": self._next_id,
            "checksums": sorted(self._checksums.items()),
        }

    def restore(self, index: Mapping[str, Any] | None) -> None:
        """Restores exactly the contents that `index()` described; None stands for a replay without episodes.

        Later files are deleted, and files that have grown are cut (a read-only replay only ignores them). A running
        episode continues, or stays as it is if the next step of its stream is a first one.

        Raises:
            ReplayError: an episode of the index is missing or too short; then nothing is changed.
        """
        index = index or {"finished": [], "running": [], "next_id": 0}
        finished = {episode[0]: Episode(*episode) for episode in index["finished"]}
        running = {episode[1]: Episode(*episode) for episode in index["running"]}
        episodes = {e.file: e for e in (*finished.values(), *running.values())}
        if defect := episode_files.cut(self.directory, episodes.values(), self.dtype.itemsize):
            raise ReplayError(defect)
        checksums = {episode: checksum for episode, checksum in index.get("checksums", ())}
        if self._writable:
            self.close()
            self._prepare()
            for stored in episode_files.files(self.directory):
                if stored.file not in episodes:
                    (self.directory / stored.file).unlink()
            for episode in episodes.values():
                os.truncate(self.directory / episode.file, episode.length * self.dtype.itemsize)
            for episode in episodes.values():  # those of a checkpoint from before there were checksums
                if episode.id not in checksums:
                    checksums[episode.id] = episode_files.checksum_of(self.directory, episode, self.dtype.itemsize)
            self._checksums = checksums
        self._finished, self._running, self._next_id = finished, running, index["next_id"]

    def release(self, index: Mapping[str, Any]) -> None:
        """Deletes the files of episodes that were forgotten before `index`, that of the oldest checkpoint to keep.

        All episodes of that checkpoint and of later ones stay.
        """
        self._need_writable("release")
        oldest = min((episode[0] for episode in (*index["finished"], *index["running"])), default=0)
        held = {episode.id for episode in self.episodes()}
        for stored in episode_files.files(self.directory):
            if stored.id < oldest and stored.id not in held:
                (self.directory / stored.file).unlink()

    def refresh(self) -> None:
        """Reads the folder of a read-only replay again, for the steps written since.

        Raises:
            ValueError: this replay is writable, and hence always up to date.
        """
        if self._writable:
            raise ValueError(f"{self.directory}: refresh is for a replay that was opened read-only")
        self._finished.clear()
        self._running.clear()
        for stored in episode_files.files(self.directory):
            rows = episode_files.whole_records(self.directory / stored.file, self.dtype.itemsize)
            episode = stored._replace(length=rows)
            if previous := self._running.pop(episode.stream, None):  # a later episode of the stream has begun
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
        """The number of rows, including reset rows and running episodes."""
        return sum(episode.length for episode in self.episodes())

    @property
    def num_episodes(self) -> int:
        """The number of finished episodes."""
        return len(self._finished)

    def episodes(self) -> list[Episode]:
        """Returns all episodes, the oldest first, the running ones last."""
        return [*self._finished.values(), *self._running.values()]

    def episode(self, id: int) -> dict[str, NDArray[Any]]:
        """Returns the fields of an episode by name, each [length, ...]; the name of a factor begins with "factors/".

        Raises:
            ValueError: there is no such episode.
        """
        for episode in self.episodes():
            if episode.id == id:
                rows = self.rows(episode, 0, episode.length)
                return {name: np.ascontiguousarray(rows[name]) for name in self.dtype.names or ()}
        raise ValueError(f"{self.directory} has no episode {id}, it has {[e.id for e in self.episodes()]}")

    def can_sample(self, length: int) -> bool:
        """Returns whether a sequence of `length` rows fits into one episode, or into short ones together."""
        return any(_rows_of(line) >= length for line in self._lines(length))

    def sample(
        self,
        rng: np.random.Generator,
        updates: int,
        length: int,
        batch: int,
        *,
        recency: Recency = EVENLY,
        columns: Collection[int] | None = None,
        with_factors: bool = False,
    ) -> Batch:
        """Draws `updates` (K) batches of `batch` (B) sequences of `length` (T) steps.

        A sequence comes from one episode, or from several short ones in a row, each of which begins with an `is_first`
        row. The result depends only on `rng` and the contents, and equals that of K calls for one batch. `columns`
        selects some of the B sequences; only these are read, and B is their number in the result.

        Raises:
            ReplayError: the replay has too few rows, or a file has been deleted or cut meanwhile.
        """
        sequences = self.draw(rng, updates, length, batch, recency)
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

    def draw(
        self, rng: np.random.Generator, updates: int, length: int, batch: int, recency: Recency = EVENLY
    ) -> list[list[Piece]]:
        """Draws the pieces of the K * B sequences that `sample` reads, those of the first batch first.

        Every position where a sequence fits is equally likely, so that an episode's weight is its number of positions
        (as in the reference). An episode of N rows has N - T + 1 of them; sequences may contain its last row, where a
        termination is recorded. Finished episodes shorter than T are joined into one, the oldest first; the paper's
        tasks have none. With a `recency`, a share of the sequences is drawn from the newest episodes only.

        Raises:
            ReplayError: the replay has too few rows.
        """
        lines = self._lines(length)
        fits = np.array([max(_rows_of(line) - length + 1, 0) for line in lines], np.int64)
        if length < 1 or not fits.any():
            kind = "" if self.include_running else "finished "
            longest = max((episode.length for episode in self.sampled()), default=0)
            raise ReplayError(
                f"{self.directory}: no sequence of {length} steps, the longest {kind}episode has {longest}"
            )
        if recency.share:
            newest = {episode.id for episode in self.sampled()[-recency.episodes :]}
            old = np.array([sum(e.length for e in line if e.id not in newest) for line in lines], np.int64)
            which, starts = _draw_recent(rng, fits, old, updates * batch, recency.share)
        else:
            which, starts = _places(np.zeros_like(fits), fits, rng.integers(fits.sum(), size=updates * batch))
        first_rows = {i: np.cumsum([0] + [episode.length for episode in lines[i]]) for i in set(which.tolist())}
        return [
            _pieces(lines[i], first_rows[i], start, length)
            for i, start in zip(which.tolist(), starts.tolist(), strict=True)
        ]

    def _lines(self, length: int) -> list[list[Episode]]:
        """Returns the sources of sequences of `length` rows: each long episode, and last, all short finished ones."""
        sampled = self.sampled()
        long = [[episode] for episode in sampled if episode.length >= length]
        short = [episode for episode in sampled if episode.length < length and episode.id in self._finished]
        return [*long, short] if short else long

    def sampled(self) -> list[Episode]:
        """Returns the episodes to sample from, the oldest first: finished ones, with `include_running` all."""
        return self.episodes() if self.include_running else list(self._finished.values())

    def rows(self, episode: Episode, start: int, count: int) -> NDArray[Any]:
        """Returns `count` records of an episode, from row `start` on."""
        rows = np.empty(count, self.dtype)
        self._read(episode, start, [rows.view(np.uint8).data])
        return rows

    def _read(self, episode: Episode, start: int, parts: Sequence[memoryview]) -> None:
        """Fills `parts` with the bytes of the episode from row `start` on."""
        episode_files.read_into(self.directory / episode.file, start * self.dtype.itemsize, parts)

    def _need_writable(self, what: str) -> None:
        if not self._writable:
            raise ValueError(f"{self.directory} was opened read-only, which excludes {what}")


def _places(
    first: NDArray[np.int64], counts: NDArray[np.int64], draws: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the line and the row in it of each draw, which numbers the positions of all lines.

    Line i has `counts[i]` positions, from row `first[i]` on.
    """
    ends = np.cumsum(counts)
    which = np.searchsorted(ends, draws, side="right")
    return which, draws - (ends - counts)[which] + first[which]


def _draw_recent(
    rng: np.random.Generator, fits: NDArray[np.int64], old: NDArray[np.int64], count: int, share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the lines and rows of `count` positions, of which a share lies behind the `old` rows of each line.

    Two numbers for each position, in its turn: the outcome is the same however many positions are drawn at a time.
    """
    chances = rng.random((count, 2))
    new = np.maximum(fits - old, 0)
    everywhere = _places(np.zeros_like(fits), fits, (chances[:, 1] * fits.sum()).astype(np.int64))
    if not new.any():
        return everywhere
    recent = _places(old, new, (chances[:, 1] * new.sum()).astype(np.int64))
    is_recent = chances[:, 0] < share
    return np.where(is_recent, recent[0], everywhere[0]), np.where(is_recent, recent[1], everywhere[1])


def _rows_of(line: Sequence[Episode]) -> int:
    return sum(episode.length for episode in line)


def _pieces(line: Sequence[Episode], first_rows: NDArray[np.int64], start: int, length: int) -> list[Piece]:
    """Returns `length` rows from row `start` on of joined episodes; `first_rows`: the row where each one begins."""
    pieces, i = [], int(np.searchsorted(first_rows, start, side="right")) - 1
    while length:
        begin = start - int(first_rows[i])
        count = min(length, line[i].length - begin)
        pieces.append(Piece(line[i], begin, count))
        start, length, i = start + count, length - count, i + 1
    return pieces


def _bytes_of(array: NDArray[Any]) -> list[memoryview]:
    """Returns the memory of a contiguous [K, T, B, ...] array as K * T * B writable pieces."""
    flat = array.reshape(-1).view(np.uint8).data
    size = array[:1, :1, :1].nbytes
    return [flat[i : i + size] for i in range(0, flat.nbytes, size)]
