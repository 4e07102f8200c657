"""Checkpoints: `checkpoints/000012000` holds `state.safetensors`, every array by its name, and `progress.json`.

A checkpoint appears whole or not at all: it is written beside its place and then renamed. The number is `env_step`.
`state.safetensors` needs nothing of this project to be read: `safetensors.numpy.load_file` gives names and arrays.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from denoised_mdp.errors import UserError

Tree = TypeVar("Tree")

FOLDER = "checkpoints"


def save(run_dir: Path, env_step: int, state: Any, progress: dict[str, Any], *, keep: int) -> Path:
    """Writes a checkpoint and then deletes all but the `keep` newest.

    state: a pytree of arrays; progress: plain JSON data, whatever else a run needs to go on.
    """
    final = run_dir / FOLDER / f"{env_step:09d}"
    partial = run_dir / FOLDER / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(named(state), partial / "state.safetensors")
    (partial / "progress.json").write_text(json.dumps(progress))
    for file in partial.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    if final.exists():  # of this very step, saved before and again after a signal
        remove(final)
    partial.rename(final)
    for old in all_of(run_dir)[:-keep]:
        remove(old)
    return final


def remove(path: Path) -> None:
    """Deletes a checkpoint; renamed first, so that a kill in the middle leaves no half of it."""
    trash = path.with_name("trash")
    shutil.rmtree(trash, ignore_errors=True)
    path.rename(trash)
    shutil.rmtree(trash)


def all_of(run_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(p for p in (run_dir / FOLDER).glob("*") if p.name.isdigit())


def latest(run_dir: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = all_of(run_dir)
    return found[-1] if found else None


def load_progress(path: Path) -> dict[str, Any]:
    """What `save` was given as `progress`.

    Raises:
        UserError: the file is damaged.
    """
    file = path / "progress.json"
    try:
        return json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{file} cannot be read: {error}; without {path} the run goes on from the one before"
        ) from error


def load_state(path: Path, like: Tree) -> Tree:
    """The saved pytree, with the structure of `like`, of which nothing but the shapes are looked at.

    Raises:
        UserError: the file is damaged, or an array is missing, left over or of another shape: each is named.
    """
    file = path / "state.safetensors"
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    wanted = _by_name(like)
    wrong = [f"missing {name}" for name in wanted.keys() - saved.keys()]
    wrong += [f"unexpected {name}" for name in saved.keys() - wanted.keys()]
    wrong += [
        f"{name} is {saved[name].shape}, not {wanted[name].shape}"
        for name in wanted.keys() & saved.keys()
        if saved[name].shape != wanted[name].shape
    ]
    if wrong:
        raise UserError(f"{file} does not fit this configuration: {'; '.join(sorted(wrong)[:5])}")
    return jax.tree.unflatten(jax.tree.structure(like), [jax.numpy.asarray(saved[name]) for name in wanted])


def named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a pytree by the names they have in a checkpoint, in the order of its leaves."""
    return {name: np.asarray(leaf, order="C") for name, leaf in _by_name(tree).items()}


def _by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
