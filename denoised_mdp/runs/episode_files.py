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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from denoised_mdp.errors import UserError

FORMAT = 1
FACTOR = "factors/"  # before the name of each factor among a record's fields
_EPISODE_FILE = re.compile(r"episode-(\d+)-stream-(\d+)\.bin")
_BUFFERS_PER_READ = 1024  # IOV_MAX of Linux: the most buffers that one preadv fills


class ReplayError(UserError):
    """An error that a user can correct: no replay, other shapes, too few rows, a value that is not finite."""


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
        """The name of its file."""
        return f"episode-{self.id:08d}-stream-{self.stream:03d}.bin"


def record_dtype(
    observation_shape: tuple[int, ...], action_size: int, factors: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]
) -> np.dtype:
    """The record of one step, packed, the frame first; `factors`: name -> (dtype, shape)."""
    fields: list[tuple[str, DTypeLike, tuple[int, ...]]] = [
        ("observation", np.uint8, tuple(observation_shape)),
        ("action", np.float32, (action_size,)),
        ("reward", np.float32, ()),
        ("is_first", np.bool_, ()),
        ("is_last", np.bool_, ()),
        ("is_terminal", np.bool_, ()),
        *((FACTOR + name, dtype, tuple(shape)) for name, (dtype, shape) in factors.items()),
    ]
    return np.dtype(fields)


def factor_names(dtype: np.dtype) -> tuple[str, ...]:
    """The names of the factors in a record."""
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
            raise ValueError(f"the replay stores factors that this step lacks: no factor {name} in its info")
        values[FACTOR + name] = step.info["factors"][name]
    if np.asarray(step.observation).dtype != np.uint8:
        raise ValueError(f"the replay stores uint8 frames, got {np.asarray(step.observation).dtype}")
    for name, value in values.items():
        if np.shape(value) != dtype[name].shape:
            raise ValueError(f"{name} has shape {np.shape(value)}, the replay stores {dtype[name].shape}")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            row[name] = value
        _check_finite(name, value, row[name])
    return row


def _check_finite(name: str, value: Any, stored: NDArray[Any]) -> None:
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise ReplayError(f"its {name} is {np.asarray(value).tolist()}, and not finite as float32 takes it; not kept")


def write_spec(directory: Path, dtype: np.dtype) -> None:
    """Makes the folder and its `spec.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    fields = [{"name": n, "dtype": dtype[n].base.str, "shape": dtype[n].shape} for n in dtype.names or ()]
    text = json.dumps({"format": FORMAT, "record_bytes": dtype.itemsize, "fields": fields}, indent=1)
    half_written = directory / "spec.json.tmp"
    half_written.write_text(text + "\n")
    half_written.replace(directory / "spec.json")


def read_spec(directory: Path) -> np.dtype:
    """The record that `spec.json` describes."""
    try:
        spec = json.loads((directory / "spec.json").read_text())
        dtype = np.dtype([(field["name"], field["dtype"], tuple(field["shape"])) for field in spec["fields"]])
    except (FileNotFoundError, NotADirectoryError):
        raise ReplayError(f"{directory} holds no replay: there is no spec.json in it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ReplayError(f"{directory / 'spec.json'} cannot be read: {error}") from None
    if spec["format"] != FORMAT:
        raise ReplayError(f"{directory} is a replay of format {spec['format']}, this version reads format {FORMAT}")
    return dtype


def check_same_record(directory: Path, found: np.dtype, wanted: np.dtype) -> None:
    """Raises a ReplayError that names what differs between the record in a folder and the one wanted, if anything."""
    if found == wanted:
        return
    for name in dict.fromkeys((*(found.names or ()), *(wanted.names or ()))):
        there, here = (str(d[name]) if name in (d.names or ()) else "nothing" for d in (found, wanted))
        if there != here:
            raise ReplayError(f"{directory} holds another replay: its {name} is {there}, this run stores {here}")
    raise ReplayError(f"{directory} holds another replay: its fields are in another order")


def files(directory: Path) -> list[Episode]:
    """The episodes whose files lie in the folder, the oldest first, of unknown length (0)."""
    matches = (_EPISODE_FILE.fullmatch(entry) for entry in os.listdir(directory))
    return sorted(Episode(int(match[1]), int(match[2]), 0) for match in matches if match)


def whole_records(path: Path, record_bytes: int) -> int:
    """Whole records in a file, 0 if there is none."""
    try:
        return path.stat().st_size // record_bytes
    except FileNotFoundError:
        return 0


def write_at(file: int, data: bytes, offset: int) -> None:
    """All of `data`: a disk that fills up shows as a short write first, as an OSError with the next."""
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
