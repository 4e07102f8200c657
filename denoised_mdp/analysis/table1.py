"""The paper's Table 1 beside runs of this code: mean returns over three tasks, by kind of noise and method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from denoised_mdp.analysis import curves, statistics
from denoised_mdp.config import Config

PUBLISHED = Path(__file__).with_name("table1.json")
TASKS = ("cheetah_run", "walker_walk", "reacher_easy")
VIDEO = "video_background"
WORLDS = {  # by the kinds of noise that are there
    frozenset[str](): "noiseless",
    frozenset({VIDEO}): "video background",
    frozenset({VIDEO, "noisy_sensor"}): "video background, noisy sensor",
    frozenset({VIDEO, "camera_jitter"}): "video background, camera jitter",
}
METHODS = {"xy": "Denoised MDP", "xyz": "Denoised MDP", "tia": "TIA", "x": "Dreamer"}  # the paper's, by model


class Cell(NamedTuple):
    """A method in one of the worlds."""

    world: str
    method: str
    seeds: dict[str, int]  # by task; tasks without runs are missing
    env_step: int  # of the evaluations: the last one that all these runs have
    returned: statistics.Estimate | None  # the mean over these tasks of the mean over seeds; None: no step in common
    published: str  # at 1,000,000 env steps: mean and standard deviation; empty: not in the table


def mean_over_tasks(scores: statistics.Scores) -> float:
    """Returns the mean over tasks of the mean over seeds."""
    return float(np.mean([np.mean(of_task) for of_task in scores]))


def cells(configs: Mapping[Path, Config]) -> list[Cell]:
    """Returns the cells for which there are runs, world by world in the order of Table 1.

    Runs count as one method if they differ in their task and seed alone.
    """
    published = json.loads(PUBLISHED.read_text())["returns"]
    found = []
    for kinds, world in WORLDS.items():
        here = {folder: config for folder, config in configs.items() if _noise(config) == kinds and _counts(config)}
        method_of = curves.methods(here, also_same=("env.task",))
        for method in sorted(set(method_of.values()), reverse=True):
            runs = {folder: config for folder, config in here.items() if method_of[folder] == method}
            config = next(iter(runs.values()))
            column = f"{METHODS[config.model.name]}, {config.policy.name}" if config.model.name in METHODS else ""
            found.append(_cell(world, method, runs, published[world].get(column, "")))
    return found


def _cell(world: str, method: str, runs: Mapping[Path, Config], published: str) -> Cell:
    of_run = {folder: curves.curve(folder) for folder in runs}
    common = set.intersection(*(set(steps.tolist()) for steps, _ in of_run.values()))
    at = max(common, default=-1)  # -1: the runs were evaluated at different env steps
    scores: dict[str, list[float]] = {}
    for folder, (steps, returns) in of_run.items():
        scores.setdefault(runs[folder].env.task, []).extend(returns[steps == at].tolist())
    tasks = {task: np.array(scores[task]) for task in TASKS if task in scores}
    rng = np.random.default_rng(0)
    returned = statistics.estimate(mean_over_tasks, list(tasks.values()), rng=rng) if common else None
    seeds = {task: sum(config.env.task == task for config in runs.values()) for task in tasks}
    return Cell(world, method, seeds, int(at), returned, published)


def _noise(config: Config) -> frozenset[str]:
    return frozenset(name for name, there in config.noise if there is True)


def _counts(config: Config) -> bool:
    return config.env.name == "dmc" and config.env.task in TASKS
