"""Checkpoints: `checkpoints/000012000` holds `state.safetensors`, with every array by name, and `progress.json`.

The number is `env_step`. A checkpoint is written under another name and then renamed, so that it is whole or not there.
`checksums.json` holds the CRC-32 of both files, which each read of a file compares; checkpoints from before version 0.2
have none.
`safetensors.numpy.load_file` reads the names and arrays of `state.safetensors` without this project's code.
"""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save_file

from denoised_mdp.errors import UserError, one_line
from denoised_mdp.runs import disk

Tree = TypeVar("Tree")

FOLDER = "checkpoints"
CHECKSUMS = "checksums.json"
TRASH = "trash"
_log = logging.getLogger(__name__)


def save(run_dir: Path, env_step: int, state: Any, progress: dict[str, Any], *, keep: int) -> Path:
    """Writes a checkpoint, deletes all but the `keep` newest, and returns the folder of the new one.

    state: a pytree of arrays; progress: plain JSON data, everything else that a resumed run needs.

    A power cut after the return takes nothing of it.

    Raises:
        OSError: the checkpoint cannot be written; earlier checkpoints are unchanged.
    """
    final = run_dir / FOLDER / f"{env_step:09d}"
    partial = run_dir / FOLDER / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _save_state(state, partial / "state.safetensors")
    (partial / "progress.json").write_text(json.dumps(progress))
    checksums = {file.name: disk.checksum(file.read_bytes()) for file in sorted(partial.iterdir())}
    (partial / CHECKSUMS).write_text(json.dumps(checksums))
    for path in (*partial.iterdir(), partial):
        disk.sync(path)
    if final.exists():  # this step was saved before, and is saved again after a signal
        _discard(final)
    partial.rename(final)
    shutil.rmtree(final.with_name(TRASH), ignore_errors=True)
    for folder in (final.parent, run_dir):
        disk.sync(folder)
    for old in all_of(run_dir)[:-keep]:
        remove(old)
    return final


def _save_state(state: Any, path: Path) -> None:
    try:
        save_file(named(state), path)
    except SafetensorError as error:  # its text contains the number of the system's error
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, one_line(error), str(path)) from error


def _discard(path: Path) -> None:
    """Takes a checkpoint's name; its files stay until the next one has it."""
    shutil.rmtree(path.with_name(TRASH), ignore_errors=True)
    path.rename(path.with_name(TRASH))


def remove(path: Path) -> None:
    """Deletes a checkpoint. It is renamed first, so that a killed process leaves no half of a checkpoint."""
    _discard(path)
    shutil.rmtree(path.with_name(TRASH))


def all_of(run_dir: Path) -> list[Path]:
    """Returns the complete checkpoints of a run, oldest first."""
    return sorted(p for p in (run_dir / FOLDER).glob("*") if p.name.isdigit())


def latest(run_dir: Path) -> Path | None:
    """Returns the newest complete checkpoint of a run, or None."""
    checkpoints = all_of(run_dir)
    return checkpoints[-1] if checkpoints else None


def latest_sound(run_dir: Path) -> Path | None:
    """Returns the newest undamaged checkpoint; if all are damaged, the newest; None if there is none."""
    checkpoints = all_of(run_dir)
    return next(
        (path for path in reversed(checkpoints) if damage(path) is None), checkpoints[-1] if checkpoints else None
    )


def damage(path: Path) -> str | None:
    """Returns the defect of a checkpoint's files, or None."""
    try:
        progress = load_progress(path)
        if "checksums" in progress.get("replay", {}) and not (path / CHECKSUMS).exists():
            return f"{path / CHECKSUMS} is missing"
        if "env_step" not in progress:
            return f"{path / 'progress.json'} has no env_step"
        _arrays(path)
        return None
    except UserError as error:
        return one_line(error)


def set_aside_damaged(run_dir: Path, defect: Callable[[Path], str | None] = damage) -> None:
    """Renames damaged checkpoints that are newer than the newest sound one, with a warning.

    defect: returns what is wrong with a checkpoint, or None.

    Raises:
        UserError: all checkpoints are damaged.
    """
    _recover(run_dir)
    damaged: dict[Path, str] = {}
    for path in reversed(all_of(run_dir)):
        if (found := defect(path)) is None:
            break
        damaged[path] = found
    else:
        if damaged:
            newest = next(iter(damaged.values()))
            raise UserError(f"{newest}; no earlier checkpoint is sound: put that file back, or begin another run")
    for path in damaged:
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    for path, found in damaged.items():
        left = int(all_of(run_dir)[-1].name)
        _log.warning("%s: %s; the run resumes from env step %d", path, found, left)


def _recover(run_dir: Path) -> None:
    """Gives a whole checkpoint its name, where a kill came between the old one's end and that, and no other is left."""
    for path in (run_dir / FOLDER / "partial", run_dir / FOLDER / TRASH):
        if not all_of(run_dir) and (path / CHECKSUMS).exists() and damage(path) is None:
            path.rename(path.with_name(f"{load_progress(path)['env_step']:09d}"))


def load_progress(path: Path) -> dict[str, Any]:
    """Returns the `progress` that `save` wrote.

    Raises:
        UserError: the file is damaged.
    """
    file = path / "progress.json"
    try:
        progress = json.loads(_read(file))
        if not isinstance(progress, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error
    return progress


def load_state(path: Path, like: Tree) -> Tree:
    """Returns the saved pytree with the structure of `like`; only the shapes of `like` are used.

    Raises:
        UserError: the file is damaged, or an array is missing, left over or of another shape; the message names them.
    """
    file, saved = path / "state.safetensors", _arrays(path)
    expected = _by_name(like)
    problems = [f"missing {name}" for name in expected.keys() - saved.keys()]
    problems += [f"unexpected {name}" for name in saved.keys() - expected.keys()]
    problems += [
        f"{name} is {saved[name].shape}, not {expected[name].shape}"
        for name in expected.keys() & saved.keys()
        if saved[name].shape != expected[name].shape
    ]
    if problems:
        raise UserError(f"{file} does not fit this configuration: {'; '.join(sorted(problems)[:5])}")
    return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(saved[name]) for name in expected])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    file = path / "state.safetensors"
    try:
        return load(_read(file))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error


def _read(file: Path) -> bytes:
    """Returns the content of a checkpoint's file.

    Raises:
        OSError: it cannot be read. ValueError: its content, or checksums.json, is not as it was written.
    """
    data, sums = file.read_bytes(), file.with_name(CHECKSUMS)
    if sums.exists():
        checksums = json.loads(sums.read_bytes())
        if not isinstance(checksums, dict) or checksums.get(file.name) != disk.checksum(data):
            raise ValueError(f"its content is not what was written, by {CHECKSUMS}")
    return data


def shape(path: Path, name: str) -> tuple[int, ...]:
    """Returns the shape of one array of a checkpoint.

    Raises:
        UserError: the file is damaged, or contains no such array.
    """
    file = path / "state.safetensors"
    try:
        with safe_open(file, "numpy") as arrays:
            return tuple(arrays.get_slice(name).get_shape())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {one_line(error)}") from error


def named(tree: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of a pytree by their names in a checkpoint, in the order of the leaves."""
    return {name: np.asarray(leaf, order="C") for name, leaf in _by_name(tree).items()}


def _by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
