"""Replay on disk: one append-only file per episode, uint8 frames, sampled as K batches of [T, B] sequences.

An episode is one binary file of fixed-size records, one record per step. `spec.json` beside the episodes describes
the record, so that numpy alone can read them:

    spec = json.load(open("replay/spec.json"))
    dtype = [(field["name"], field["dtype"], tuple(field["shape"])) for field in spec["fields"]]
    episode = np.fromfile("replay/episode-00000000-stream-000.bin", dtype)

`action[t]` is the action that led to `observation[t]`; the reset row (`is_first`) has action 0 and reward 0.

One `os.preadv` reads T consecutive steps with all their fields directly into the arrays of the batch, so that resident
memory holds only the batches, whatever the size of the replay. Every `add` hands its record to the operating system at
once: a killed process loses no record, except one that it cut short, which readers ignore and the next `add`
overwrites. The end of an episode writes it through to the disk, and `flush` does so for running episodes, against a
power cut.
"""

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from denoised_mdp.errors import UserError

FORMAT = 1
_EPISODE_FILE = re.compile(r"episode-(\d+)-stream-(\d+)\.bin")
_FACTOR = "factors/"
_BUFFERS_PER_READ = 1024  # IOV_MAX of Linux: the most buffers that one preadv fills


class ReplayError(UserError):
    """An error that a user can correct: no replay, other shapes, too few rows, a non-finite value."""


class StepLike(Protocol):
    """The part of an environment's `Step` that the replay stores."""

    @property
    def observation(self) -> NDArray[np.uint8]: ...
    @property
    def reward(self) -> float: ...
    @property
    def is_first(self) -> bool: ...
    @property
    def is_last(self) -> bool: ...
    @property
    def is_terminal(self) -> bool: ...
    @property
    def info(self) -> Mapping[str, Any]: ...


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

    episode: "Episode"
    start: int
    length: int


class Episode(NamedTuple):
    """An episode in the index: `length` counts its rows, the reset row included."""

    id: int
    stream: int
    length: int

    @property
    def file(self) -> str:
        """The name of the episode's file."""
        return f"episode-{self.id:08d}-stream-{self.stream:03d}.bin"


def record_dtype(
    observation_shape: tuple[int, ...], action_size: int, factors: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
) -> np.dtype:
    """Returns the dtype of one step's record, packed, the frame first; `factors`: name -> (dtype, shape)."""
    fields: list[tuple[str, DTypeLike, tuple[int, ...]]] = [
        ("observation", np.uint8, tuple(observation_shape)),
        ("action", np.float32, (action_size,)),
        ("reward", np.float32, ()),
        ("is_first", np.bool_, ()),
        ("is_last", np.bool_, ()),
        ("is_terminal", np.bool_, ()),
        *((_FACTOR + name, dtype, tuple(shape)) for name, (dtype, shape) in factors.items()),
    ]
    return np.dtype(fields)


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
            _check_same_record(directory, _read_spec(directory), dtype)
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
        dtype = _read_spec(directory)
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
        self.factor_names = tuple(n.removeprefix(_FACTOR) for n in dtype.names or () if n.startswith(_FACTOR))
        self._writable = writable
        self._small = np.dtype([(n, dtype[n]) for n in dtype.names or () if n != "observation"])
        self._finished: dict[int, Episode] = {}  # by id, the oldest first
        self._running: dict[int, Episode] = {}  # by stream
        self._open_files: dict[int, int] = {}  # by stream
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
            row = self._record(step, action)
        except ReplayError as error:
            length = 0 if step.is_first or stream not in self._running else self._running[stream].length
            raise ReplayError(f"step {length} of an episode of environment {stream}: {error}") from None
        if not self._ready:
            if self.directory.exists() and _files(self.directory):
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
        # At its place, not at the end: this overwrites a record that an error cut short.
        _write_at(self._open_files[stream], row.tobytes(), episode.length * self.dtype.itemsize)
        self._running[stream] = episode._replace(length=episode.length + 1)
        if step.is_last:
            self._finish(stream)

    def _prepare(self) -> None:
        """Makes the folder and its `spec.json`."""
        self.directory.mkdir(parents=True, exist_ok=True)
        dtype = self.dtype
        fields = [{"name": n, "dtype": dtype[n].base.str, "shape": dtype[n].shape} for n in dtype.names or ()]
        text = json.dumps({"format": FORMAT, "record_bytes": dtype.itemsize, "fields": fields}, indent=1)
        half_written = self.directory / "spec.json.tmp"
        half_written.write_text(text + "\n")
        half_written.replace(self.directory / "spec.json")
        self._ready = True

    def _record(self, step: StepLike, action: NDArray[np.floating] | None) -> NDArray[Any]:
        row = np.zeros((), self.dtype)
        values: dict[str, Any] = {
            "observation": step.observation,
            "is_first": step.is_first,
            "is_last": step.is_last,
            "is_terminal": step.is_terminal,
        }
        if not step.is_first:
            if action is None:
                raise ValueError("the replay needs the action that led to this step: only a first step has none")
            values |= {"action": action, "reward": step.reward}
        for name in self.factor_names:
            if name not in step.info.get("factors", {}):
                raise ValueError(f"the replay stores a factor that is missing in this step's info: {name}")
            values[_FACTOR + name] = step.info["factors"][name]
        if np.asarray(step.observation).dtype != np.uint8:
            raise ValueError(f"the replay stores uint8 frames, got {np.asarray(step.observation).dtype}")
        for name, value in values.items():
            if np.shape(value) != self.dtype[name].shape:
                raise ValueError(f"{name} has shape {np.shape(value)}, the replay stores {self.dtype[name].shape}")
            with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused
                row[name] = value
            _check_finite(name, value, row[name])
        return row

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
        """Writes running episodes through to the disk (fsync), before a checkpoint; it matters only in a power cut."""
        for file in self._open_files.values():
            os.fsync(file)

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
        """Returns the contents as plain JSON data for the checkpoint: finished and running episodes, the next id."""
        return {
            "finished": [list(episode) for episode in self._finished.values()],
            "running": [list(episode) for episode in self._running.values()],
            "next_id": self._next_id,
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
        for episode in episodes.values():
            rows = _rows(self.directory / episode.file, self.dtype.itemsize)
            if rows < episode.length:
                raise ReplayError(
                    f"{self.directory}: {episode.file} has {rows} steps, the checkpoint's replay had {episode.length}"
                )
        if self._writable:
            self.close()
            self._prepare()
            for stored in _files(self.directory):
                if stored.file not in episodes:
                    (self.directory / stored.file).unlink()
            for episode in episodes.values():
                os.truncate(self.directory / episode.file, episode.length * self.dtype.itemsize)
        self._finished, self._running, self._next_id = finished, running, index["next_id"]

    def release(self, index: Mapping[str, Any]) -> None:
        """Deletes the files of episodes that were forgotten before `index`, that of the oldest checkpoint to keep.

        All episodes of that checkpoint and of later ones stay.
        """
        self._need_writable("release")
        oldest = min((episode[0] for episode in (*index["finished"], *index["running"])), default=0)
        held = {episode.id for episode in self.episodes()}
        for stored in _files(self.directory):
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
        for stored in _files(self.directory):
            episode = stored._replace(length=_rows(self.directory / stored.file, self.dtype.itemsize))
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
            factors={n: np.ascontiguousarray(small[_FACTOR + n]) for n in self.factor_names if with_factors},
        )

    def draw(self, rng: np.random.Generator, updates: int, length: int, batch: int) -> list[list[Piece]]:
        """Draws the pieces of the K * B sequences that `sample` reads, those of the first batch first.

        Every position where a sequence fits is equally likely, so that an episode's weight is its number of positions
        (as in the reference). An episode of N rows has N - T + 1 of them; sequences may contain its last row, where a
        termination is recorded. Finished episodes shorter than T are joined into one, the oldest first; the paper's
        tasks have none.

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
        path = self.directory / episode.file
        offset = start * self.dtype.itemsize
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ReplayError(f"{path} has been deleted since the replay was opened") from None
        try:
            for first in range(0, len(parts), _BUFFERS_PER_READ):
                some = parts[first : first + _BUFFERS_PER_READ]
                size = sum(part.nbytes for part in some)
                if os.preadv(file, some, offset) != size:
                    raise ReplayError(f"{path} has been cut since the replay was opened")
                offset += size
        finally:
            os.close(file)

    def _need_writable(self, what: str) -> None:
        if not self._writable:
            raise ValueError(f"{self.directory} was opened read-only, which excludes {what}")


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


def _check_finite(name: str, value: Any, stored: NDArray[Any]) -> None:
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise ReplayError(f"its {name} is {np.asarray(value).tolist()}, not a finite float32; the step is not stored")


def _read_spec(directory: Path) -> np.dtype:
    """Returns the dtype of the record that `spec.json` describes."""
    try:
        spec = json.loads((directory / "spec.json").read_text())
        dtype = np.dtype([(field["name"], field["dtype"], tuple(field["shape"])) for field in spec["fields"]])
    except (FileNotFoundError, NotADirectoryError):
        raise ReplayError(f"{directory} holds no replay: there is no spec.json in it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{directory / 'spec.json'} cannot be read: {error}") from None
    if spec["format"] != FORMAT:
        raise ReplayError(f"{directory} is a replay of format {spec['format']}, but this version reads format {FORMAT}")
    return dtype


def _check_same_record(directory: Path, stored: np.dtype, new: np.dtype) -> None:
    if stored == new:
        return
    for name in dict.fromkeys((*(stored.names or ()), *(new.names or ()))):
        old_field, new_field = (str(d[name]) if name in (d.names or ()) else "nothing" for d in (stored, new))
        if old_field != new_field:
            raise ReplayError(
                f"{directory} holds another replay: its {name} is {old_field}, this run stores {new_field}"
            )
    raise ReplayError(f"{directory} holds another replay: its fields are in another order")


def _files(directory: Path) -> list[Episode]:
    """Returns the episodes whose files are in the folder, the oldest first, with length 0 (unknown)."""
    matches = (_EPISODE_FILE.fullmatch(entry) for entry in os.listdir(directory))
    return sorted(Episode(int(match[1]), int(match[2]), 0) for match in matches if match)


def _rows(path: Path, record_bytes: int) -> int:
    """Returns the number of whole records in a file; 0 if the file is missing."""
    try:
        return path.stat().st_size // record_bytes
    except FileNotFoundError:
        return 0


def _write_at(file: int, data: bytes, offset: int) -> None:
    """Writes all of `data`. A full disk first causes a short write, and an OSError with the next one."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _bytes_of(array: NDArray[Any]) -> list[memoryview]:
    """Returns the memory of a contiguous [K, T, B, ...] array as K * T * B writable pieces."""
    flat = array.reshape(-1).view(np.uint8).data
    size = array[:1, :1, :1].nbytes
    return [flat[i : i + size] for i in range(0, flat.nbytes, size)]
