"""Writes a run's metrics and videos to metrics.jsonl, and on request to TensorBoard, Weights & Biases, the terminal.

A line of metrics.jsonl is {"env_step": 12000, "model/loss": 11301.2, ...}; a non-finite value is null. The names are
those of denoised_mdp/runs/metrics.py. TensorBoard and wandb are imported only when used.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, SupportsFloat

import numpy as np

from denoised_mdp.errors import UserError, one_line
from denoised_mdp.runs import disk
from denoised_mdp.runs import metrics as listed
from denoised_mdp.runs.progress import ProgressLine, Speed

FILE = "metrics.jsonl"
PROJECT = "denoised-mdp"  # in Weights & Biases
_log = logging.getLogger(__name__)

WandbMode = Literal["disabled", "offline", "online"]


class Logger:
    """Writes nothing before `start`; hands each line to the operating system at once, so that a kill loses none.

    Args:
        run_dir: the run's folder.
        total_env_steps: the last env step of the run, for the time left.
        tensorboard: write events to run_dir/tensorboard.
        wandb_mode: `offline` needs no account: `wandb sync` can upload run_dir/wandb later.
        progress: show a progress line on the terminal; without a terminal, print it every 30 seconds.
        config: settings to show in Weights & Biases, nested plain data.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        total_env_steps: int,
        tensorboard: bool = True,
        wandb_mode: WandbMode = "disabled",
        progress: bool = True,
        config: Mapping[str, Any] | None = None,
    ):
        self._run_dir, self._total, self._config = run_dir, total_env_steps, dict(config or {})
        self._use_tensorboard, self._use_progress = tensorboard, progress
        self.latest: dict[str, float] = {}  # the last value of everything logged since `start`
        self._wandb_mode: WandbMode = wandb_mode
        self.speed = Speed()
        self._lines: BinaryIO | None = None
        self._tensorboard: Any = None
        self._wandb: Any = None
        self._progress: ProgressLine | None = None

    def start(self, env_step: int | None = None) -> None:
        """Resumes from the checkpoint of `env_step`, or begins anew with None. Later lines are removed.

        TensorBoard hides the later values; Weights & Biases keeps them, and shows both.

        Raises:
            UserError: metrics.jsonl cannot be written, wandb is not installed, or `online` finds no account.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._lines = _reopen(self._run_dir / FILE, env_step)
        if self._use_tensorboard:
            try:
                self._tensorboard = _start_tensorboard(self._run_dir / "tensorboard", env_step)
            except OSError as error:
                _log.warning("nothing is written for TensorBoard: %s", one_line(error))
        if self._wandb_mode != "disabled":
            self._wandb = _start_wandb(self._run_dir, self._wandb_mode, self._config)
        if self._use_progress:
            self._progress = ProgressLine(self._total, self.speed)
        self.progress(env_step or 0)

    def progress(self, env_step: int) -> None:
        """Shows the progress of the run; cheap enough for every step."""
        self.speed.update(env_step)
        if self._progress is not None:
            self._progress.update(env_step)

    @property
    def env_steps_per_second(self) -> float | None:
        """The run's recent speed; None before the first progress."""
        return self.speed.env_steps_per_second

    def log(self, env_step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        """Writes the numbers of one env step (Python's, numpy's or jax's) to all destinations.

        Raises:
            ValueError: a name is not listed in metrics.py.
            RuntimeError: `start` has not been called, or `close` has.
        """
        listed.check(metrics)
        if self._lines is None:
            raise RuntimeError("the logger has not been started, or has been closed")
        numbers = {name: _number(value) for name, value in metrics.items()}
        line = {"env_step": env_step} | {name: v if math.isfinite(v) else None for name, v in numbers.items()}
        # One unbuffered write of a whole line: no interrupt can split it, only a disk that fills up.
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        while data:
            data = data[self._lines.write(data) :]
        if self._tensorboard is not None:
            for name, value in numbers.items():
                if math.isfinite(value):  # tensorboardX prints a warning for each other value
                    self._tensorboard.add_scalar(name, value, env_step)
        if self._wandb is not None:
            self._wandb.log({"env_step": env_step} | numbers)
        self.latest |= numbers
        self.speed.update(env_step)
        if self._progress is not None:
            self._progress.update(env_step, numbers)

    def video(self, env_step: int, name: str, path: Path) -> None:
        """Shows the mp4 or GIF at `path` in Weights & Biases. TensorBoard cannot play it."""
        if self._wandb is not None:
            import wandb

            self._wandb.log(
                {"env_step": env_step, name: wandb.Video(str(path), format="gif" if path.suffix == ".gif" else "mp4")}
            )

    def image(self, env_step: int, name: str, path: Path) -> None:
        """Shows the PNG at `path` in TensorBoard and in Weights & Biases."""
        if self._tensorboard is not None:
            from PIL import Image

            self._tensorboard.add_image(name, np.asarray(Image.open(path).convert("RGB")), env_step, dataformats="HWC")
        if self._wandb is not None:
            import wandb

            self._wandb.log({"env_step": env_step, name: wandb.Image(str(path))})

    def flush(self) -> None:
        """Writes lines and buffered events to the disk, as before a checkpoint."""
        if self._lines is not None:
            os.fsync(self._lines.fileno())
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        """Closes all destinations; a second call does nothing."""
        # Each attribute is cleared before its `close`: if one of them fails, a second call closes the others.
        if (progress := self._progress) is not None:
            self._progress = None
            progress.close()
        if (lines := self._lines) is not None:
            self._lines = None
            lines.close()
        if (tensorboard := self._tensorboard) is not None:
            self._tensorboard = None
            tensorboard.close()
        if (run := self._wandb) is not None:
            self._wandb = None
            run.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's metrics.jsonl, which may still grow; an empty list if the file is missing.

    Lines without metrics are left out, with a warning if they are not blank.
    """
    path = run_dir / FILE
    return [metrics for _, metrics in _readable(path)] if path.exists() else []


def _readable(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Returns the complete lines, each with its metrics."""
    lines, unreadable = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            metrics = json.loads(line)
        except (ValueError, RecursionError):
            metrics = None
        if line.endswith(b"\n") and isinstance(metrics, dict) and isinstance(metrics.get("env_step"), int):
            lines.append((line, metrics))
        else:
            unreadable += line.endswith(b"\n") and not line.isspace()
    if unreadable:
        _log.warning("%s: %d lines contain no metrics, and are left out", path, unreadable)
    return lines


def _number(value: SupportsFloat) -> float | int:
    kind = np.asarray(value).dtype.kind
    return int(np.asarray(value)) if kind in "iu" else float(value)


def _reopen(path: Path, env_step: int | None) -> BinaryIO:
    """Returns the file to append to, after removing lines beyond `env_step` and lines without metrics."""
    try:
        if path.exists():
            last = -1 if env_step is None else env_step
            kept = b"".join(line for line, metrics in _readable(path) if metrics["env_step"] <= last)
            if kept != path.read_bytes():
                partial = path.with_name(path.name + ".partial")
                partial.write_bytes(kept)
                disk.sync(partial)
                partial.replace(path)
        return path.open("ab", buffering=0)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {one_line(error)}") from error


def _start_tensorboard(folder: Path, env_step: int | None) -> Any:
    from tensorboardX import SummaryWriter

    if env_step is None:
        shutil.rmtree(folder, ignore_errors=True)
        return SummaryWriter(str(folder))
    return SummaryWriter(str(folder), purge_step=env_step + 1)


def _start_wandb(run_dir: Path, mode: WandbMode, config: dict[str, Any]) -> Any:
    """Returns a wandb run; a resumed run has the same id, and hence the same wandb run."""
    try:
        import wandb
        from wandb.errors import Error
    except ImportError:
        raise UserError(f"logger.wandb={mode} needs wandb: pip install wandb") from None
    id_file = run_dir / "wandb_id.txt"
    saved_id = id_file.read_text(errors="replace").strip() if id_file.exists() else ""
    run_id = saved_id if saved_id.isalnum() else uuid.uuid4().hex[:8]
    try:
        run = wandb.init(
            project=PROJECT,
            name=run_dir.name,
            id=run_id,
            resume="allow" if mode == "online" else None,  # offline, the same id joins the parts on `wandb sync`
            reinit="create_new",  # beside the wandb runs of other seeds
            mode=mode,
            dir=str(run_dir),
            config=config,
            settings=wandb.Settings(silent=mode == "offline", console="off"),  # online, wandb prints the address
        )
    except Error as error:
        raise UserError(
            f"logger.wandb={mode}: {one_line(error)}; `wandb login` sets up an account, offline needs none"
        ) from None
    id_file.write_text(run_id + "\n")
    run.define_metric("env_step")
    run.define_metric("*", step_metric="env_step")
    return run
