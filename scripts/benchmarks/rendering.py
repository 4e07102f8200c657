"""Frames per second of each rendering backend and quality.

    python scripts/benchmarks/rendering.py --out docs/results/rendering.json

A frame is one agent step of `env=dmc`: two simulator steps and a picture of 64 x 64 pixels.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from denoised_mdp.config.compose import compose
from denoised_mdp.envs import QUALITIES, make
from denoised_mdp.envs.render.backend import choose, works

PAPER_TASKS = ("cheetah_run", "walker_walk", "reacher_easy")
NOISES = ("none", "video_background")
_WARM_UP = 3  # frames; the first one makes the rendering context
_VIDEO = {"video_background": True, "source": "pink", "clip_frames": 50, "on_reset": "continue"}


class Rate(NamedTuple):
    """The speed of one way of rendering."""

    task: str
    noise: str  # one of NOISES; the video needs the background's pixels too
    backend: str
    quality: str
    frames_per_second: float  # wall time
    frames_per_cpu_second: float  # CPU time, which other jobs hardly change


def rate(task: str, *, noise: str, backend: str, quality: str, frames: int) -> Rate:
    """Plays `frames` agent steps of random actions, fewer than an episode has.

    It uses this process, which can have only one OpenGL backend.
    """
    env = make(
        env={"name": "dmc", "task": task, "image_size": 64, "action_repeat": 2, "camera": 0},
        render={"backend": backend, "quality": quality},
        noise=compose(["noise=none"]).noise.model_dump() | (_VIDEO if noise == "video_background" else {}),
        seed=0,
        split="train",
    )
    rng = np.random.default_rng(0)

    def play(count: int) -> None:
        env.reset()
        for _ in range(count):
            env.step(rng.uniform(-1, 1, env.action_size))

    play(_WARM_UP)
    clock, work = time.perf_counter(), time.process_time()
    play(frames)
    clock, work = time.perf_counter() - clock, time.process_time() - work
    env.close()
    return Rate(task, noise, backend, quality, frames / clock, frames / work)


def rates(
    tasks: Sequence[str], *, noises: Sequence[str] = NOISES, qualities: Sequence[str] = QUALITIES, frames: int = 60
) -> list[Rate]:
    """Measures all combinations with the backends that work here, each backend in its own process."""
    results = []
    for backend in ("egl", "ray"):
        if backend == "egl" and not works("egl"):
            continue
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            for task in tasks:
                for noise in noises:
                    for quality in qualities:
                        if backend == "ray" and quality == "stock":  # the same as lite
                            continue
                        how = {"noise": noise, "backend": backend, "quality": quality, "frames": frames}
                        results.append(process.submit(rate, task, **how).result())
    return results


def every_task(frames: int = 20) -> list[Rate]:
    """Measures each task of the suite, behind a video, without shadows; raises if one does not load, step or render."""
    choose("ray")  # this process renders nothing
    from denoised_mdp.envs.dmc import TASKS

    return rates(list(TASKS), noises=["video_background"], qualities=["fast"], frames=frames)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Frames per second of each rendering backend and quality.")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file to write")
    options = parser.parse_args()
    results: dict[str, Any] = {"paper_tasks": rates(PAPER_TASKS), "every_task": every_task()}
    for part, measured in results.items():
        results[part] = [one._asdict() for one in measured]
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    _main()
