"""Learning curves of several runs in one picture, and their final numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from denoised_mdp import run_dir
from denoised_mdp.config import Config
from denoised_mdp.errors import UserError
from denoised_mdp.logger import read_metrics

matplotlib.use("agg")
import matplotlib.pyplot as plt

METRIC = "evaluate/return_mean"
LABELS = {
    "x": "x alone (Dreamer)",
    "xy": "x and y (Denoised MDP, Fig. 2b)",
    "xyz": "x, y and z (Denoised MDP, Fig. 2c)",
    "tia": "TIA",
}


def curve(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A run's evaluations: env steps [N] and mean returns [N].

    Raises:
        UserError: it has none.
    """
    rows = [(line["env_step"], line[METRIC]) for line in read_metrics(folder) if METRIC in line]
    if not rows:
        raise UserError(f"{folder} has no evaluations yet")
    steps, returns = np.array(rows).T
    return steps, returns


def draw(folders: Sequence[Path], baselines: Mapping[str, Any] | None, path: Path) -> dict[str, Any]:
    """Draws every run, thin, and the mean of each model and policy learner over seeds, thick.

    Returns the last evaluations.

    baselines: what scripts/baselines.py wrote; drawn as horizontal lines.

    Raises:
        UserError: a folder holds no run, or one without evaluations; the runs are of several tasks.
    """
    configs = {folder: run_dir.load(folder) for folder in folders}
    tasks = {f"{config.env.task}, {_noise(config)}" for config in configs.values()}
    if len(tasks) > 1:
        raise UserError(f"the runs are of several worlds: {'; '.join(sorted(tasks))}")
    identities = [(_method(config), config.seed) for config in configs.values()]
    if len(set(identities)) < len(identities):
        raise UserError("two of the runs are of the same model, policy and seed")
    if baselines is not None and baselines["task"] != next(iter(configs.values())).env.task:
        raise UserError(f"the baselines are of {baselines['task']}, not of the runs' task")
    methods = sorted({_method(config) for config in configs.values()}, reverse=True)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    summary: dict[str, Any] = {"world": tasks.pop(), "metric": METRIC, "methods": {}}
    for method, colour in zip(methods, plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False):
        curves = {config.seed: curve(folder) for folder, config in configs.items() if _method(config) == method}
        for steps, returns in curves.values():
            axes.plot(steps, returns, color=colour, alpha=0.35, linewidth=1)
        shared = min((steps for steps, _ in curves.values()), key=len)
        if any(not np.array_equal(steps[: len(shared)], shared) for steps, _ in curves.values()):
            raise UserError(f"the runs of {method} were evaluated at different env steps")
        mean = np.mean([returns[: len(shared)] for _, returns in curves.values()], axis=0)
        axes.plot(shared, mean, color=colour, linewidth=2.5, label=f"{method}: mean of {len(curves)}")
        summary["methods"][method] = {
            f"seed {seed}": {"env_step": int(steps[-1]), "return": float(returns[-1])}
            for seed, (steps, returns) in sorted(curves.items())
        }
    if baselines is not None:
        for key, label, style in (
            ("random_mean", "random policy", "--"),
            ("best_constant_mean", "best constant action", ":"),
        ):
            axes.axhline(baselines[key], color="black", linestyle=style, linewidth=1.2, label=label)
            summary[key] = baselines[key]
    axes.set(xlabel="env steps (simulator frames)", ylabel="evaluation return", title=summary["world"])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return summary


def _method(config: Config) -> str:
    learner = "" if config.policy.name == "dynamics" else f", policy={config.policy.name}"
    return LABELS.get(config.model.name, config.model.name) + learner


def _noise(config: Config) -> str:
    noise = config.noise
    parts = {
        f"video background ({Path(noise.source).name})": noise.video_background,
        "noisy sensor": noise.noisy_sensor,
        "camera jitter": noise.camera_jitter,
    }
    return ", ".join(part for part, there in parts.items() if there) or "no noise"
