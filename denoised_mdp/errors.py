"""Errors that a user can correct, each reported in one line."""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # why a disk may refuse to write
PICTURES = (".png", ".pdf", ".svg")  # the file types of a figure


class UserError(ValueError):
    """Wrong settings or wrong data. Its message is one line for the user; scripts print it and exit with code 2."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns any ValueError inside the context, where settings and data are checked, into a UserError.

    Keep long computations outside, so that an error in the program comes with its traceback.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(one_line(error)) from error


@contextmanager
def disk_errors(run_dir: str | Path, advice: str) -> Iterator[None]:
    """Turns an OSError inside the context into a UserError about the run, if the disk refuses to write."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise UserError(f"run_dir={run_dir}: {one_line(error)}; {advice}") from error


def one_line(error: object) -> str:
    """Returns the message of an exception without line breaks."""
    return " ".join(str(error).split())


def with_place(error: BaseException) -> str:
    """Returns type, message and origin of an exception in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}:{error.lineno})"
        return f"{type(error).__name__}: {error.msg}{place}"
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"


def nearest(name: str, known: Iterable[str], *, at_most: int = 3) -> list[str]:
    """Returns the known dotted names that are most similar to `name`, the most similar first.

    Names with the same last part come first: model.beta for beta. A beginning counts too: vid is near video_background.
    """
    last = name.rpartition(".")[2]

    def likeness(candidate: str) -> float:
        end = candidate.rpartition(".")[2]
        whole = _ratio(name, candidate)
        begins = 0.95 * _ratio(name, candidate[: len(name)])
        ends = 0.9 * _ratio(last, end)  # a misspelt name without its section
        return 2.0 if end == last else max(whole, begins, ends)

    scored = sorted(((likeness(candidate), candidate) for candidate in dict.fromkeys(known)), key=lambda pair: -pair[0])
    return [candidate for score, candidate in scored if score >= 0.65][:at_most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns "; did you mean a, b or c?", or "" if no name is similar."""
    near = nearest(name, known)
    if not near:
        return ""
    return f"; did you mean {' or '.join(filter(None, (', '.join(near[:-1]), near[-1])))}?"


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def unwritable(folder: Path) -> str | None:
    """Returns why a folder, which may not exist yet, is not writable; None if it is. Writes nothing."""
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            if not place.is_dir():
                return f"{place} is not a folder"
            return None if os.access(place, os.W_OK | os.X_OK) else f"{place} is read-only"
    return None


def expanded(text: str) -> Path:
    """An argparse type: returns a path, with ~ as the user's home."""
    return Path(os.path.expanduser(text))


def output(*suffixes: str) -> Callable[[str], Path]:
    """Returns an argparse type: a file to write, checked before the work. `suffixes`: the allowed ones; none: all."""

    def checked(text: str) -> Path:
        file = expanded(text)
        if suffixes and file.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text} should end with {' or '.join(suffixes)}")
        if file.is_dir():
            raise argparse.ArgumentTypeError(f"{text} is a folder")
        if problem := unwritable(file.parent):
            raise argparse.ArgumentTypeError(f"{text} cannot be written: {problem}")
        return file

    return checked


def at_least(least: int) -> Callable[[str], int]:
    """Returns an argparse type: whole numbers from `least` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is not at least {least}")
        return value

    return number
