"""Clips from a directory: video files, and folders of images, at any depth.

A clip is decoded once. Its frames are then cached under a name made from its content and their size, and are mapped
into memory, so that all environments and processes share them.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from denoised_mdp import cache as caches
from denoised_mdp.errors import UserError, one_line

VIDEOS = (".mp4", ".avi", ".webm", ".mov", ".mkv")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_HELD_OUT = 0.1  # share of the clips that only evaluation sees
_FORMS = {False: "gray", True: "rgb24"}  # as ffmpeg names them
_SPLIT_SEED = 0  # the same in every environment, or training would see another one's held-out clips
_AS_DECODED = b"2"  # change this number when the decoding of images changes
_log = logging.getLogger(__name__)


class Unreadable(Exception):
    """A clip without a readable frame; the message gives the reason."""


def find(directory: Path) -> list[Path]:
    """Returns the clips, sorted: every video file, and every folder with images in it. Links are followed.

    Raises:
        UserError: there is none.
    """
    clips = []
    for folder, names in _folders(directory):
        clips += [folder / name for name in names if name.lower().endswith(VIDEOS)]
        if any(name.lower().endswith(IMAGES) for name in names):
            clips.append(folder)
    if not clips:
        raise UserError(
            f"noise.source={directory} holds neither videos ({' '.join(VIDEOS)}) nor images ({' '.join(IMAGES)})"
        )
    return sorted(clips)


def files(directory: Path) -> list[Path]:
    """Returns the files of all clips, in the order of `find`; none where `find` finds no clip."""
    try:
        clips = find(directory)
    except UserError:
        return []
    return [file for clip in clips for file in (_images(clip) if clip.is_dir() else [clip])]


def _folders(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yields every folder once with the names of its files, under its own path rather than that of a link to it."""
    seen, starts = set(), [str(directory)]
    for start in starts:  # the loop adds links to this list
        for folder, inside, names in os.walk(start, onerror=lambda error: _leave_out(error.filename, error)):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                inside.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            starts += [path for name in sorted(inside) if os.path.islink(path := os.path.join(folder, name))]
            for path in (Path(folder, name) for name in names if not name.lower().endswith(VIDEOS + IMAGES)):
                if path.is_symlink() and not path.exists():  # perhaps to a folder; a file's is reported on reading
                    _leave_out(path, FileNotFoundError("the link leads nowhere"))
            yield Path(folder), names


def _leave_out(path: Path | str, error: Exception) -> None:
    _warn(f"noise.source: {path} is left out, it cannot be read: {one_line(error)}")


def check(directory: Path, size: int, colour: bool, cache: str | None) -> None:
    """Checks that training and evaluation would each find a readable clip.

    Raises:
        UserError: as `load`.
    """
    for split in ("train", "eval"):
        load(directory, np.random.default_rng(0), split, 1, size, colour, cache)


def load(
    directory: Path,
    rng: np.random.Generator,
    split: Literal["train", "eval"],
    count: int,
    size: int,
    colour: bool,
    cache: str | None,
) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    """Loads clips in random order, one after the other and repeatedly, until there are `count` frames.

    Unreadable files are skipped, with a warning.

    Args:
        cache: the folder of decoded clips; None: in the user's own cache.

    Returns: `count` frames [size, size], gray, or [size, size, 3], scaled to a square, views of the cache; and for each
        frame the index [count] of its clip in `find`.

    Raises:
        UserError: as `find`, no clip of the split can be read, or the cache cannot be written.
    """
    clips = find(directory)
    mine = members(len(clips), split)
    read = functools.cache(lambda clip: _frames_or_warning(clips[clip], size, colour, cache))
    frames: list[NDArray[np.uint8]] = []
    ids: list[int] = []
    while len(frames) < count:
        before = len(frames)
        for clip in rng.permutation(mine).tolist():
            if len(frames) < count:
                more = list(read(clip)[: count - len(frames)])
                frames += more
                ids += [clip] * len(more)
        if len(frames) == before:
            clip = clips[min(mine)]
            raise UserError(
                f"noise.source={directory}: of the {len(mine)} clips for {split} none can be read, {clip.name} for one"
            )
    return frames, np.array(ids)


def members(count: int, split: Literal["train", "eval"]) -> NDArray[np.int64]:
    """Returns the indices of a split among `count` clips: a tenth, but at least one, is held out for evaluation.

    A single clip is in both, with a warning.
    """
    if count == 1:
        _warn("noise.source holds a single clip, so evaluation sees the video of training")
        return np.zeros(1, np.int64)
    order = np.random.default_rng(_SPLIT_SEED).permutation(count)
    held_out = max(1, round(_HELD_OUT * count))
    return order[:held_out] if split == "eval" else order[held_out:]


def decoded(clip: Path, size: int, colour: bool, cache: str | None) -> NDArray[np.uint8]:
    """Returns the frames of one clip, [N, size, size] or [N, size, size, 3], from the cache; fills the cache first.

    Raises:
        Unreadable: there is no frame.
        UserError: the cache cannot be written.
    """
    folder = caches.folder("videos") if cache is None else Path(cache).expanduser()
    try:
        path = folder / f"{_fingerprint(clip)}-{size}.{_FORMS[colour]}"
    except OSError as error:
        raise Unreadable(one_line(error)) from error
    if not path.exists():
        try:
            _write(clip, size, colour, path)
        except OSError as error:
            raise UserError(f"noise.cache={folder} cannot be written: {one_line(error)}") from error
    shape = (-1, size, size, 3) if colour else (-1, size, size)
    return np.asarray(np.memmap(path, np.uint8, "r")).reshape(shape)


@functools.cache
def _warn(message: str) -> None:
    """Logs a warning once per process, not once per environment."""
    _log.warning("%s", message)


def _frames_or_warning(clip: Path, size: int, colour: bool, cache: str | None) -> NDArray[np.uint8]:
    try:
        return decoded(clip, size, colour, cache)
    except Unreadable as error:
        _leave_out(clip, error)
        return np.empty((0, size, size), np.uint8)


def _fingerprint(clip: Path) -> str:
    """Returns a hash of the content: a copy elsewhere has the same hash."""
    if not clip.is_dir():
        return hashlib.sha256(_digest(clip)).hexdigest()[:32]
    digests = _AS_DECODED
    for file in _images(clip):
        try:
            digests += _digest(file)
        except OSError as error:
            _leave_out(file, error)
    return hashlib.sha256(digests).hexdigest()[:32]


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def _write(clip: Path, size: int, colour: bool, path: Path) -> None:
    """Decodes a clip into `path`, atomically: processes that decode it at the same time just write the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}-{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            (_write_images if clip.is_dir() else _write_video)(clip, size, colour, file)
            file.flush()
            os.fsync(file.fileno())
        if not partial.stat().st_size:
            raise Unreadable("it holds no frame")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_video(clip: Path, size: int, colour: bool, file: BinaryIO) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-i", str(clip.absolute())]
    picture = f"scale={size}:{size}:flags=area,format={_FORMS[colour]}"
    command += ["-map", "0:V:0", "-vf", picture, "-fps_mode", "passthrough", "-f", "rawvideo", "-"]
    done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, check=False, start_new_session=True)
    if done.returncode:
        raise Unreadable(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])


def _write_images(folder: Path, size: int, colour: bool, file: BinaryIO) -> None:
    for image in _images(folder):
        try:
            with Image.open(image) as opened:
                resized = _as_seen(opened, colour).resize((size, size), Image.Resampling.BILINEAR)
        except Exception as error:  # its type depends on the format and on the fault
            _leave_out(image, error)
        else:
            file.write(np.asarray(resized).tobytes())


def _as_seen(image: Image.Image, colour: bool) -> Image.Image:
    """Converts an image as a viewer does: rotated by its EXIF tag, on black if transparent, 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB" if colour else "L")


def _images(folder: Path) -> list[Path]:
    """Returns the images of a clip in order, numbers by value: frame2 before frame10. Hidden files are skipped."""
    found = [path for path in folder.iterdir() if path.name.lower().endswith(IMAGES) and path.name[0] != "."]
    return sorted(found, key=lambda path: (_numbered(path.stem), path.name))


def _numbered(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
