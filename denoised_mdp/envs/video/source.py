"""One function to load a clip from any source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.video import directory, leaves, pink
from denoised_mdp.envs.video.colour import coloured
from denoised_mdp.errors import UserError

Split = Literal["train", "eval"]
SPLITS: tuple[Split, ...] = ("train", "eval")
PROCEDURAL: dict[str, Callable[[np.random.Generator, int, int], NDArray[np.uint8]]] = {
    "pink": pink.frames,
    "leaves": leaves.frames,
}
Frames = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]  # [N, H, W], gray, or [N, H, W, 3]


class Clip(NamedTuple):
    """The video of an environment: N frames in a loop."""

    frames: Frames
    ids: NDArray[np.int64]  # [N], which clip (file, or seed of the procedure) a frame belongs to


def check(source: str, *, size: int, colour: bool = False, cache: str | None = None) -> None:
    """Checks a source without loading all of it; the arguments are those of `load`.

    Raises:
        UserError: it is neither a procedure nor a directory with readable clips for training and for evaluation.
    """
    if source in PROCEDURAL:
        return
    path = Path(source).expanduser()
    if not path.is_dir():
        raise UserError(f"noise.source={source} is neither {' nor '.join(PROCEDURAL)} nor a directory")
    directory.check(path, size, colour, cache)


def load(
    source: str,
    *,
    seed: np.random.SeedSequence,
    split: Split,
    count: int,
    size: int,
    colour: bool = False,
    cache: str | None = None,
) -> Clip:
    """Returns `count` frames of [size, size] pixels, gray or in colour, a function of the arguments alone.

    Training and evaluation share no clip: a procedure makes another clip for every seed, and the clips of a directory
    are divided. `cache`: the folder for the decoded clips of a directory; None: in the user's own cache.

    Raises:
        UserError: the source cannot be read.
    """
    rng = np.random.default_rng(seed)
    if source not in PROCEDURAL:
        return Clip(*directory.load(Path(source).expanduser(), rng, split, count, size, colour, cache))
    name = np.int64(seed.generate_state(1)[0])
    frames = PROCEDURAL[source](rng, count, size)
    return Clip(coloured(frames, rng) if colour else frames, np.full(count, name))
