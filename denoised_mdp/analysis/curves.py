"""Compares several runs: learning curves, any other metric over time, and the last values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from denoised_mdp.config import Config
from denoised_mdp.config.sections import PART_NAMES
from denoised_mdp.errors import UserError, did_you_mean
from denoised_mdp.runs import run_dir
from denoised_mdp.runs.logger import read_metrics
from denoised_mdp.runs.metrics import METRICS

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

METRIC = "evaluate/return_mean"
LABELS = {
    "x": "x alone (Dreamer)",
    "xy": "x and y (Denoised MDP, Fig. 2b)",
    "xyz": "x, y and z (Denoised MDP, Fig. 2c)",
    "tia": "TIA",
}


def curve(folder: Path, name: str = METRIC) -> tuple[np.ndarray, np.ndarray]:
    """Returns a metric of a run over time, by default the mean evaluation return: env steps [N] and values [N].

    Raises:
        UserError: the run has no such metric.
    """
    rows = [(line["env_step"], line[name]) for line in read_metrics(folder) if name in line]
    if not rows:
        what = "no evaluations yet" if name == METRIC else f"no metric {name}{did_you_mean(name, list(METRICS))}"
        raise UserError(f"{folder} has {what}")
    steps, values = np.array(rows).T
    return steps, values


def draw(folders: Sequence[Path], baselines: Mapping[str, Any] | None) -> tuple[Figure, dict[str, Any]]:
    """Draws the return of every run, thin, and the mean over seeds of each model and policy learner, thick.

    Returns the picture and the last evaluations.

    baselines: the result of scripts/baselines.py; drawn as horizontal lines.

    Raises:
        UserError: a folder holds no run or no evaluation, or the runs or baselines do not belong together.
    """
    configs = {folder: run_dir.load(folder) for folder in folders}
    tasks = {f"{config.env.task}, {_noise(config)}" for config in configs.values()}
    if len(tasks) > 1:
        raise UserError(f"the runs have different worlds: {'; '.join(sorted(tasks))}")
    identities = [(_method(config), config.seed) for config in configs.values()]
    if len(set(identities)) < len(identities):
        raise UserError("two of the runs have the same model, policy and seed")
    if baselines is not None and baselines["task"] != next(iter(configs.values())).env.task:
        raise UserError(f"the baselines are for {baselines['task']}, not for the runs' task")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    summary: dict[str, Any] = {"world": tasks.pop(), "metric": METRIC, "methods": {}}
    for method, colour in _colours(configs.values()).items():
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
    plt.close(figure)
    return figure, summary


def draw_metrics(folders: Sequence[Path], names: Sequence[str], *, columns: int = 3) -> Figure:
    """Draws metrics over time: a panel for each, with a line for each run that has it, in the colour of its method.

    Raises:
        UserError: a folder holds no run, or no run has one of the metrics.
    """
    configs = {folder: run_dir.load(folder) for folder in folders}
    colours = _colours(configs.values())
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.2 * columns, 3 * rows), layout="constrained", squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        runs = [folder for folder in folders if any(name in line for line in read_metrics(folder))]
        for folder in runs or folders:
            axes.plot(*curve(folder, name), color=colours[_method(configs[folder])], alpha=0.7, linewidth=1.2)
        axes.set_title(name, fontsize=10)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("env steps (simulator frames)", fontsize=8)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    lines = [Line2D([], [], color=colour, label=method) for method, colour in colours.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=min(2, columns), frameon=False, fontsize=9)
    plt.close(figure)
    return figure


def table(folders: Sequence[Path]) -> str:
    """Returns the method and progress of each run, as Markdown; the cell of a missing metric is empty.

    Raises:
        UserError: a folder holds no run.
    """
    last_of = {
        "updates": "train/updates",
        "return": METRIC,
        "at least": "evaluate/return_low",
        "at most": "evaluate/return_high",
        **{f"KL {part}": f"model/kl_{part}" for part in PART_NAMES},
        "pixel error": "model/observation_mse",
    }
    lines = [f"| run | method | seed | env steps | {' | '.join(last_of)} |", "|---|---|" + "---:|" * (len(last_of) + 2)]
    for folder in folders:
        config, logged = run_dir.load(folder), read_metrics(folder)
        last = {name: value for line in logged for name, value in line.items()}
        cells = [f"{last[name]:,.4g}" if name in last else "" for name in last_of.values()]
        about = f"| {folder.name} | {_method(config)} | {config.seed} | {last.get('env_step', 0):,} "
        lines.append(about + f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def last_values(folder: Path) -> str:
    """Returns the last value and the meaning of each metric of a run, as Markdown."""
    last = {name: value for line in read_metrics(folder) for name, value in line.items()}
    head = [f"{folder.name}, env step {last.get('env_step', 0):,}", "", "| metric | last | meaning |", "|---|---:|---|"]
    meanings = {name: meaning.replace("|", "\\|") for name, meaning in METRICS.items()}  # within a table
    rows = [f"| `{name}` | {last[name]:.4g} | {meanings[name]} |" for name in METRICS if name in last]
    return "\n".join(head + rows)


def _colours(configs: Iterable[Config]) -> dict[str, str]:
    methods = sorted({_method(config) for config in configs}, reverse=True)
    return dict(zip(methods, plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))


def _method(config: Config) -> str:
    learner = "" if config.policy.name == "dynamics" else f", policy={config.policy.name}"
    return LABELS.get(config.model.name, config.model.name) + learner


def _noise(config: Config) -> str:
    source = f" ({Path(config.noise.source).name})"
    parts = [
        name.replace("_", " ") + (source if name in ("video_background", "television") else "")
        for name, there in config.noise
        if there is True
    ]
    return ", ".join(parts) or "no noise"
