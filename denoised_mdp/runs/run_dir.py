"""A run's folder: its owner and its contents. `config.yaml` in it is the run's resolved configuration.

No jax here, so that a misspelt option is reported before jax has loaded, which takes seconds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from denoised_mdp.config import Config
from denoised_mdp.config import schema as settings
from denoised_mdp.config.sections import Custom
from denoised_mdp.errors import UserError, one_line
from denoised_mdp.runs import sources
from denoised_mdp.runs.sources import CONSTRUCTOR

CONFIG = "config.yaml"
LOCK = "lock"
EVALUATION = "evaluation-{env_step}-seed{seed}.json"  # written by the command evaluate
_OWN = (LOCK, f"{CONFIG}.partial")  # files that a failed start may leave in a folder
_log = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Checks that `config.run_dir` is free, or holds this same run, which can then resume. Writes nothing.

    Raises:
        UserError: the folder holds a run of another configuration or other files, or lies in a run's folder.
    """
    run_dir = Path(config.run_dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir} is a file; it should be a folder, or not exist yet")
    if (run_dir.parent / CONFIG).exists():
        raise UserError(
            f"run_dir={run_dir} lies in the folder of another run, {run_dir.parent}; choose another run_dir"
        )
    if (run_dir / CONFIG).exists():
        differences = sources.differences(run_dir, settings.load(run_dir / CONFIG), config)
        if differences:
            more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise UserError(
                f"run_dir={run_dir} holds a run of another configuration ({', '.join(differences[:5])}{more}); "
                "choose another run_dir, or delete that one"
            )
        if changed := sources.changed_videos(run_dir, config) or sources.changed_replay(run_dir, config):
            raise UserError(f"run_dir={run_dir}: {changed}; put them back, or choose another run_dir")
    elif run_dir.exists() and any(entry.name not in _OWN for entry in run_dir.iterdir()):
        raise UserError(f"run_dir={run_dir} holds other files and no {CONFIG}; choose another run_dir")


def claim(config: Config) -> Path:
    """Makes this run the owner of its folder by writing the configuration into it; returns the folder.

    It writes the first file of a run: call it after all checks.

    Raises:
        UserError: as `check`, or the folder cannot be written.
    """
    check(config)
    run_dir = Path(config.run_dir)
    try:
        settings.save(config, run_dir / CONFIG)
        sources.note(run_dir, config)
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written: {one_line(error)}") from None
    return run_dir


class Lock(NamedTuple):
    """This process's hold of a run's folder."""

    run_dir: Path
    owner: str  # the line in the lock's file

    def check(self) -> None:
        """Checks that no other process has taken the folder, as is possible where the file system has no locks.

        Raises:
            UserError: one has; what this process would write now would mix with that one's.
        """
        try:
            owner = (self.run_dir / LOCK).read_text(errors="replace").strip()
        except OSError:
            return  # deleted or out of reach: no sign of another process
        if owner and owner != self.owner:
            raise UserError(
                f"run_dir={self.run_dir} has been taken over by process {one_line(owner)}; this one ends, unsaved"
            )


@contextmanager
def locked(run_dir: Path) -> Iterator[Lock]:
    """Locks the folder against other training processes inside the context; makes the folder if it is missing.

    The kernel holds the lock, so that it always ends with the process; the file only names its owner. On a network
    folder two machines may both get the lock: the later one becomes the owner, and the earlier one ends at `check`.

    Raises:
        UserError: another process trains there, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = (run_dir / LOCK).open("a+")
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written: {one_line(error)}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"run_dir={run_dir} is in use: process {one_line(file.read())} trains there, or is suspended; "
                "end that process first, or choose another run_dir"
            ) from None
        except OSError as error:  # a file system without locks
            _log.warning("run_dir=%s cannot be locked (%s): start no second process there", run_dir, one_line(error))
        lock = Lock(run_dir, f"{os.getpid()} on {socket.gethostname()}, start {uuid.uuid4().hex[:8]}")
        with suppress(OSError):  # on a full disk the lock still works
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{lock.owner}\n".encode())
        yield lock


def load(run_dir: Path) -> Config:
    """Returns the configuration of the run in a folder, which may have been moved since the run began.

    Raises:
        UserError: the folder holds no run.
    """
    if not run_dir.is_dir():
        raise UserError(f"run_dir={run_dir}: there is no such folder")
    if not (run_dir / CONFIG).exists():
        raise UserError(f"run_dir={run_dir} holds no run: there is no {CONFIG} in it")
    return settings.load(run_dir / CONFIG).model_copy(update={"run_dir": str(run_dir)})


def load_to_play(run_dir: Path, *, constructor: str | None = None) -> Config:
    """Returns the configuration of a run whose environments are about to be made.

    constructor: the code of a custom environment that may run. The run's own `env.constructor` is no permission.

    Raises:
        UserError: there is no run, or it names code of its own, and the caller names none.
    """
    config = load(run_dir)
    if not isinstance(config.env, Custom):
        return config
    if constructor is None:
        code = config.env.constructor
        option = f"{CONSTRUCTOR}={code}" if re.fullmatch(r"[\w./:-]+", code) else f"'{CONSTRUCTOR}=\"{code}\"'"
        raise UserError(f"run_dir={run_dir} would run its own code; if you trust it, add {option} to this command")
    return config.model_copy(update={"env": config.env.model_copy(update={"constructor": constructor})})


def checkpoint(run_dir: Path, which: str) -> Path:
    """Returns the folder of a run's checkpoint: the `latest`, or that of an env step.

    Raises:
        UserError: the run has no such checkpoint.
    """
    from denoised_mdp.runs.checkpoint import all_of  # imports jax

    checkpoints = all_of(run_dir)
    if not checkpoints:
        raise UserError(f"run_dir={run_dir} has no checkpoint yet")
    if which == "latest":
        return checkpoints[-1]
    for path in checkpoints:
        if which.isdigit() and int(path.name) == int(which):
            return path
    steps = ", ".join(str(int(path.name)) for path in checkpoints)
    raise UserError(f"checkpoint={which}: there is no such checkpoint, only latest and those of env steps {steps}")
