"""One way to get a clip, whatever it comes from."""

from __future__ import annotations

from collections.abc import Callable
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


class Clip(NamedTuple):
    """What an environment plays: N frames in a circle."""

    frames: NDArray[np.uint8]  # [N, H, W], gray, or [N, H, W, 3]
    ids: NDArray[np.int64]  # [N], which clip (file, or seed of the procedure) a frame belongs to


def check(source: str) -> None:
    """Looks at a source without loading it.

    Raises:
        UserError: it is neither a procedure nor a directory whose videos and images can all be read.
    """
    if source in PROCEDURAL:
        return
    path = Path(source).expanduser()
    if not path.is_dir():
        raise UserError(f"noise.source={source} is neither {' nor '.join(PROCEDURAL)} nor a directory")
    directory.check(path)


def load(
    source: str, *, seed: np.random.SeedSequence, split: Split, count: int, size: int, colour: bool = False
) -> Clip:
    """`count` frames of [size, size] pixels, gray or in colour, a function of the arguments alone.

    Training and evaluation share no clip: a procedure gives another one for every seed, and a directory's are divided.

    Raises:
        UserError: the source cannot be read.
    """
    rng = np.random.default_rng(seed)
    if source not in PROCEDURAL:
        return Clip(*directory.load(Path(source).expanduser(), rng, split, count, size, colour))
    name = np.int64(seed.generate_state(1)[0])
    frames = PROCEDURAL[source](rng, count, size)
    return Clip(coloured(frames, rng) if colour else frames, np.full(count, name))
