"""The files of a replay: one binary file per episode, of fixed-size records, one record per step.

`spec.json` beside the episodes says what a record holds, so that nothing but numpy is needed to read them:

    spec = json.load(open("replay/spec.json"))
    dtype = [(field["name"], field["dtype"], tuple(field["shape"])) for field in spec["fields"]]
    episode = np.fromfile("replay/episode-00000000-stream-000.bin", dtype)

`action[t]` is the action that led to `observation[t]`; the reset row (`is_first`) has action 0 and reward 0.
A record that a killed process left cut short is ignored on reading and overwritten on writing.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from denoised_mdp.errors import UserError, one_line
from denoised_mdp.runs import disk

FORMAT = 1
FIELDS: list[tuple[str, DTypeLike, int]] = [  # of every record: name, type, axes
    ("observation", np.uint8, 3),
    ("action", np.float32, 1),
    ("reward", np.float32, 0),
    ("is_first", np.bool_, 0),
    ("is_last", np.bool_, 0),
    ("is_terminal", np.bool_, 0),
]
FACTOR = "factors/"  # before the name of each factor among a record's fields
_EPISODE_FILE = re.compile(r"episode-(\d+)-stream-(\d+)\.bin")
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
    shapes = {"observation": tuple(observation_shape), "action": (action_size,)}
    fields = [(name, dtype, shapes.get(name, ())) for name, dtype, _ in FIELDS]
    fields += [(FACTOR + name, dtype, tuple(shape)) for name, (dtype, shape) in factors.items()]
    return np.dtype(fields)


def factor_names(dtype: np.dtype) -> tuple[str, ...]:
    """Returns the names of the factors in a record."""
    return tuple(name.removeprefix(FACTOR) for name in dtype.names or () if name.startswith(FACTOR))


def record(dtype: np.dtype, step: StepLike, action: NDArray[np.floating] | None) -> NDArray[Any]:
    """Returns the record of a step and of the action [A] that led to it, which a first step lacks.

    Raises:
        ReplayError: a reward, an action or a factor is not finite.
        ValueError: an action or a factor is missing, or has another shape than the record.
    """
    row = np.zeros((), dtype)
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
    for name in factor_names(dtype):
        if name not in step.info.get("factors", {}):
            raise ValueError(f"the replay stores a factor that is missing in this step's info: {name}")
        values[FACTOR + name] = step.info["factors"][name]
    if np.asarray(step.observation).dtype != np.uint8:
        raise ValueError(f"the replay stores uint8 frames, got {np.asarray(step.observation).dtype}")
    for name, value in values.items():
        if np.shape(value) != dtype[name].shape:
            raise ValueError(f"{name} has shape {np.shape(value)}, the replay stores {dtype[name].shape}")
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, and is refused
            row[name] = value
        _check_finite(name, value, row[name])
    return row


def _check_finite(name: str, value: Any, stored: NDArray[Any]) -> None:
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise ReplayError(f"its {name} is {np.asarray(value).tolist()}, not a finite float32; the step is not stored")


def write_spec(directory: Path, dtype: np.dtype) -> None:
    """Makes the folder and its `spec.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    fields = [{"name": n, "dtype": dtype[n].base.str, "shape": dtype[n].shape} for n in dtype.names or ()]
    text = json.dumps({"format": FORMAT, "record_bytes": dtype.itemsize, "fields": fields}, indent=1)
    half_written = directory / "spec.json.tmp"
    half_written.write_text(text + "\n")
    disk.sync(half_written)
    half_written.replace(directory / "spec.json")


def read_spec(directory: Path) -> np.dtype:
    """Returns the dtype of the record that `spec.json` describes."""
    try:
        spec = json.loads((directory / "spec.json").read_text())
        form = spec["format"]
        dtype = np.dtype([(field["name"], field["dtype"], tuple(field["shape"])) for field in spec["fields"]])
        if form == FORMAT:
            _check_fields(dtype)
    except (FileNotFoundError, NotADirectoryError):
        raise ReplayError(f"{directory} holds no replay: there is no spec.json in it") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        problem = f"{type(error).__name__}: {one_line(error)}"
        raise ReplayError(f"{directory / 'spec.json'} cannot be read: {problem}") from None
    if form != FORMAT:
        raise ReplayError(f"{directory} is a replay of format {form}, but this version reads format {FORMAT}")
    return dtype


def _check_fields(dtype: np.dtype) -> None:
    """Raises a ValueError where a field is missing, or of another type or number of axes than in `record_dtype`."""
    for name, expected, axes in FIELDS:
        if name not in (dtype.names or ()):
            raise ValueError(f"there is no {name}")
        if dtype[name].base != np.dtype(expected) or len(dtype[name].shape) != axes:
            raise ValueError(f"{name} is {dtype[name]}")


def check_same_record(directory: Path, stored: np.dtype, new: np.dtype) -> None:
    """Raises a ReplayError where the record of a replay differs from that of the run."""
    if stored == new:
        return
    for name in dict.fromkeys((*(stored.names or ()), *(new.names or ()))):
        there, here = (str(d[name]) if name in (d.names or ()) else "nothing" for d in (stored, new))
        if there != here:
            raise ReplayError(f"{directory} holds another replay: its {name} is {there}, this run stores {here}")
    raise ReplayError(f"{directory} holds another replay: its fields are in another order")


def files(directory: Path) -> list[Episode]:
    """Returns the episodes whose files are in the folder, the oldest first, with length 0 (unknown)."""
    matches = (_EPISODE_FILE.fullmatch(entry) for entry in os.listdir(directory))
    return sorted(Episode(int(match[1]), int(match[2]), 0) for match in matches if match)


def whole_records(path: Path, record_bytes: int) -> int:
    """Returns the number of whole records in a file; 0 if the file is missing."""
    try:
        return path.stat().st_size // record_bytes
    except FileNotFoundError:
        return 0


def damage(directory: Path, index: Mapping[str, Any]) -> str | None:
    """Returns the first defect of the files that hold the episodes of a replay's `index()`, or None. Reads all of them.

    A file may be missing, cut, or have another content than was recorded.
    """
    episodes = [Episode(*episode) for episode in (*index["finished"], *index["running"])]
    if not episodes:
        return None
    try:
        size = read_spec(directory).itemsize
    except ReplayError as error:
        return one_line(error)
    checksums = {episode: checksum for episode, checksum in index.get("checksums", ())}
    for episode in episodes:
        if defect := cut(directory, [episode], size):
            return defect
        try:
            now = checksum_of(directory, episode, size)
        except OSError as error:  # the disk itself is damaged
            return f"{directory / episode.file} cannot be read: {one_line(error)}"
        if checksums.get(episode.id, now) != now:
            return f"{directory / episode.file} has another content than was recorded (by its checksum)"
    return None


def cut(directory: Path, episodes: Iterable[Episode], record_bytes: int) -> str | None:
    """Returns a sentence about the first episode whose file has too few records, or None."""
    for episode in episodes:
        if (rows := whole_records(directory / episode.file, record_bytes)) < episode.length:
            return f"{directory}: {episode.file} has {rows} steps, the checkpoint's replay had {episode.length}"
    return None


def checksum_of(directory: Path, episode: Episode, record_bytes: int) -> int:
    """Returns the checksum of an episode's rows, read a megabyte at a time."""
    checksum, left = 0, episode.length * record_bytes
    with (directory / episode.file).open("rb") as file:
        while left and (data := file.read(min(left, 2**20))):
            checksum, left = disk.checksum(data, checksum), left - len(data)
    return checksum


def write_at(file: int, data: bytes, offset: int) -> None:
    """Writes all of `data`. A full disk first causes a short write, and an OSError with the next one."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def read_into(path: Path, offset: int, parts: Sequence[memoryview]) -> None:
    """Fills `parts` with the bytes of an episode's file from `offset` on.

    Raises:
        ReplayError: the file has been deleted or cut.
    """
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
