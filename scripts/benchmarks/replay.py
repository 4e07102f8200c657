"""The speed of sampling from the replay: from the disk (cold), and from the system's page cache (warm)."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.table import Row
from benchmarks.timing import spread, timed
from denoised_mdp.config import Config
from denoised_mdp.envs import Step
from denoised_mdp.runs.replay import Replay

EPISODE = 501  # rows: 1000 frames of the suite with an action repeat of 2, and the reset


def measure(config: Config, *, action_size: int, rows: int, repeats: int) -> list[Row]:
    """Writes `rows` steps of noise to a temporary folder on the disk, then samples one batch at a time."""
    size, train = config.env.image_size, config.train
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="denoised-mdp-replay-") as folder:
        shapes = {"observation_shape": (size, size, 3), "action_size": action_size}
        replay = Replay(folder, capacity=rows + EPISODE, **shapes)
        started = time.perf_counter()
        for row in range(rows):
            replay.add(_step(rng, size, row % EPISODE), rng.uniform(-1, 1, action_size))
        written = time.perf_counter() - started
        replay.close()
        before = machine.resident()

        def sample() -> None:
            replay.sample(rng, 1, train.batch_length, train.batch_size)

        cold = []
        for _ in range(repeats):
            _forget(Path(folder))
            cold.append(timed(sample)[0].wall)
        for path in Path(folder).glob("*.bin"):
            path.read_bytes()
        warm = [timed(sample)[0].wall for _ in range(4 * repeats)]
    frames = train.batch_length * train.batch_size
    return [
        Row("steps", replay.num_steps, "", f"{rows * replay.dtype.itemsize / 2**30:.3g} GiB on disk"),
        Row("write", rows / written, "steps/s", "making the noise included"),
        *spread("sample_cold", cold, note="a batch, the page cache emptied of the replay"),
        *spread("sample_warm", warm, note="a batch, all of the replay in the page cache"),
        Row("sample_cold_rate", frames / float(np.median(cold)), "frames/s"),
        Row("sample_warm_rate", frames / float(np.median(warm)), "frames/s"),
        Row("memory_before", before.value, "GiB", "the most resident memory until the first batch"),
        machine.resident(),
    ]


def _step(rng: np.random.Generator, size: int, row: int) -> Step:
    return Step(
        observation=rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
        reward=0.0,
        is_first=row == 0,
        is_last=row == EPISODE - 1,
        is_terminal=False,
        info={},
    )


def _forget(folder: Path) -> None:
    """Asks the system to drop the replay's files from its page cache."""
    for path in folder.glob("*.bin"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
