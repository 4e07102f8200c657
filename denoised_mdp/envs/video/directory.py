"""Clips from a directory: video files, and folders of images, at any depth."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denoised_mdp.errors import UserError

VIDEOS = (".mp4", ".avi", ".webm", ".mov", ".mkv")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_HELD_OUT = 0.1  # share of the clips that only evaluation sees
_SPLIT_SEED = 0  # the same in every environment, or training would see what another one holds out
_log = logging.getLogger(__name__)


def find(directory: Path) -> list[Path]:
    """The clips: every video file, and every folder with images in it; sorted.

    Raises:
        UserError: there is none.
    """
    clips = []
    for folder, _, names in os.walk(directory):
        clips += [Path(folder, name) for name in names if name.lower().endswith(VIDEOS)]
        if any(name.lower().endswith(IMAGES) for name in names):
            clips.append(Path(folder))
    if not clips:
        raise UserError(
            f"noise.source={directory} holds neither videos ({' '.join(VIDEOS)}) nor images ({' '.join(IMAGES)})"
        )
    return sorted(clips)


def check(directory: Path) -> None:
    """Reads every image, and the first frame of every video.

    Raises:
        UserError: what `find` raises, a file that cannot be read, or video files without PyAV to read them.
    """
    for clip in find(directory):
        frames = _frames(clip, 8, colour=False)
        count = sum(1 for _ in frames) if clip.is_dir() else sum(1 for _ in itertools.islice(frames, 1))
        if not count:
            raise UserError(f"noise.source: {clip} holds no frame")


def load(
    directory: Path, rng: np.random.Generator, split: Literal["train", "eval"], count: int, size: int, colour: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Clips in random order, one after the other and over again, until there are `count` frames.

    Returns: frames [count, size, size], gray, or [count, size, size, 3], squeezed to a square; and the number [count]
        of its clip in `find`.

    Raises:
        UserError: what `find` raises, or a file that cannot be read.
    """
    clips = find(directory)
    mine = members(len(clips), split)
    frames = np.empty((count, size, size, 3) if colour else (count, size, size), np.uint8)
    ids = np.empty(count, np.int64)
    filled = 0
    while filled < count:
        before = filled
        for clip in rng.permutation(mine):
            for frame in itertools.islice(_frames(clips[clip], size, colour), count - filled):
                frames[filled], ids[filled] = frame, clip
                filled += 1
        if filled == before:
            raise UserError(f"noise.source={directory}: no frame in any clip of the {split} split")
    return frames, ids


def members(count: int, split: Literal["train", "eval"]) -> NDArray[np.int64]:
    """Which of `count` clips belong to a split: a tenth, but at least one, is held out for evaluation.

    A single clip is in both, with a warning.
    """
    if count == 1:
        _log.warning("noise.source holds a single clip, so evaluation sees the video of training")
        return np.zeros(1, np.int64)
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    held_out = max(1, round(_HELD_OUT * count))
    return order[:held_out] if split == "eval" else order[held_out:]


def _frames(clip: Path, size: int, colour: bool) -> Iterator[NDArray[np.uint8]]:
    """The frames of one clip, [size, size] each, or [size, size, 3]."""
    if clip.is_dir():
        for image in _images(clip):
            with _open(image) as opened:
                try:
                    resized = opened.convert("RGB" if colour else "L").resize((size, size), Image.Resampling.BILINEAR)
                except OSError as error:
                    raise UserError(f"noise.source: {image} cannot be read: {error}") from error
            yield np.asarray(resized)
        return
    av = _pyav()
    try:
        with av.open(str(clip)) as container:
            for frame in container.decode(video=0):
                form = "rgb24" if colour else "gray"
                yield frame.reformat(width=size, height=size, format=form, interpolation="AREA").to_ndarray()
    except (av.FFmpegError, IndexError, OSError) as error:  # IndexError: no video stream
        raise UserError(f"noise.source: {clip} cannot be read as a video: {error}") from error


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(IMAGES))


def _open(image: Path) -> Image.Image:
    try:
        return Image.open(image)
    except OSError as error:
        raise UserError(f"noise.source: {image} cannot be read as an image") from error


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise UserError(
            'noise.source holds video files: pip install "av>=14" to read them (the extra `video`)'
        ) from error
    return av
