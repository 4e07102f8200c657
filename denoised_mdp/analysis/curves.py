"""Compares several runs: learning curves, any other metric over time, and the last values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from denoised_mdp.analysis import statistics
from denoised_mdp.config import Config, schema
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
THRESHOLDS = (100, 200, 300, 400, 500)  # returns whose env steps are reported
SEEN = ("seed", "evaluate.", "render.")  # settings that do not affect learning, and the seed
MOST_SETTINGS = 3  # in the name of a method
WIDE = 50  # characters of a label that takes a line of the legend for itself
PALETTE = plt.rcParams["axes.prop_cycle"].by_key()["color"]
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
    """Draws the return of every run, thin, and the interquartile mean over seeds of each method, with its 95% interval.

    Returns the picture, the last evaluations, and the statistics of each method. Runs of one method differ in their
    seed alone.

    baselines: the result of scripts/baselines.py; drawn as horizontal lines.

    Raises:
        UserError: a folder holds no run or no evaluation, or the runs or baselines do not belong together.
    """
    configs = {folder: run_dir.load(folder) for folder in folders}
    tasks = {world(config) for config in configs.values()}
    if len(tasks) > 1:
        raise UserError(f"the runs have different worlds: {'; '.join(sorted(tasks))}")
    method_of = methods(configs)
    identities = [(method_of[folder], config.seed) for folder, config in configs.items()]
    if len(set(identities)) < len(identities):
        raise UserError("two of the runs have the same settings and seed")
    if baselines is not None and baselines["task"] != next(iter(configs.values())).env.task:
        raise UserError(f"the baselines are for {baselines['task']}, not for the runs' task")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    summary: dict[str, Any] = {"world": tasks.pop(), "metric": METRIC, "methods": {}, "statistics": {}}
    for method, colour in _colours(method_of.values()).items():
        curves = {config.seed: curve(folder) for folder, config in configs.items() if method_of[folder] == method}
        for steps, returns in curves.values():
            axes.plot(steps, returns, color=colour, alpha=0.35, linewidth=1)
        shared = min((steps for steps, _ in curves.values()), key=len)
        if any(not np.array_equal(steps[: len(shared)], shared) for steps, _ in curves.values()):
            raise UserError(f"the runs of {method} were evaluated at different env steps")
        returns_of = np.array([returns[: len(shared)] for _, returns in curves.values()])  # [seeds, evaluations]
        rng = np.random.default_rng(0)
        middle = [statistics.estimate(statistics.interquartile_mean, [now], rng=rng) for now in returns_of.T]
        value, low, high = np.array(middle).T
        axes.plot(shared, value, color=colour, linewidth=2.5, label=f"{method}: {_seeds(len(curves))}")
        axes.fill_between(shared, low, high, color=colour, alpha=0.12, linewidth=0)
        summary["statistics"][method] = _statistics(shared, returns_of, middle[-1])
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
    longest = max(len(text) for text in axes.get_legend_handles_labels()[1])
    figure.legend(loc="outside lower center", ncols=2 if longest < WIDE else 1, frameon=False, fontsize=9)
    plt.close(figure)
    return figure, summary


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _statistics(steps: np.ndarray, returns: np.ndarray, last: statistics.Estimate) -> dict[str, Any]:
    """Returns the statistics of one method's curves: env steps [N], returns [seeds, N]."""
    rng = np.random.default_rng(0)
    report: dict[str, Any] = {"seeds": len(returns), "env_step": int(steps[-1]), "final": last._asdict()}
    if len(steps) > 1:
        areas = np.array([statistics.area_under_curve(steps, of_seed) for of_seed in returns])
        report["area"] = statistics.estimate(statistics.interquartile_mean, [areas], rng=rng)._asdict()
        reached = {at: [statistics.steps_to(at, steps, of_seed) for of_seed in returns] for at in THRESHOLDS}
        report["steps_to"] = {str(at): found for at, found in reached.items() if any(s is not None for s in found)}
    return report


def draw_metrics(folders: Sequence[Path], names: Sequence[str], *, columns: int = 3) -> Figure:
    """Draws metrics over time: a panel for each, with a line for each run that has it, in the colour of its method.

    Raises:
        UserError: a folder holds no run, or no run has one of the metrics.
    """
    method_of = methods({folder: run_dir.load(folder) for folder in folders})
    colours = _colours(method_of.values())
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.2 * columns, 3 * rows), layout="constrained", squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        runs = [folder for folder in folders if any(name in line for line in read_metrics(folder))]
        for folder in runs or folders:
            axes.plot(*curve(folder, name), color=colours[method_of[folder]], alpha=0.7, linewidth=1.2)
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
    configs = {folder: run_dir.load(folder) for folder in folders}
    method_of = methods(configs)
    for folder, config in configs.items():
        logged = read_metrics(folder)
        last = {name: value for line in logged for name, value in line.items()}
        cells = [f"{last[name]:,.4g}" if name in last else "" for name in last_of.values()]
        about = f"| {folder.name} | {method_of[folder]} | {config.seed} | {last.get('env_step', 0):,} "
        lines.append(about + f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def last_values(folder: Path) -> str:
    """Returns the last value and the meaning of each metric of a run, as Markdown."""
    last = {name: value for line in read_metrics(folder) for name, value in line.items()}
    head = [f"{folder.name}, env step {last.get('env_step', 0):,}", "", "| metric | last | meaning |", "|---|---:|---|"]
    meanings = {name: meaning.replace("|", "\\|") for name, meaning in METRICS.items()}  # within a table
    rows = [f"| `{name}` | {last[name]:.4g} | {meanings[name]} |" for name in METRICS if name in last]
    return "\n".join(head + rows)


def world(config: Config) -> str:
    """Returns the name of a run's world: its task and its noise."""
    return f"{config.env.task}, {_noise(config)}"


def methods(configs: Mapping[Path, Config], *, also_same: tuple[str, ...] = ()) -> dict[Path, str]:
    """Returns the name of each run's method: its model and policy learner, and the settings that tell it from others.

    Runs have the same name only if they differ in nothing but their seed, or in what is evaluated and drawn.

    also_same: beginnings of other settings that may differ.
    """
    same_in = (*SEEN, *also_same)
    of_label: dict[str, list[list[Path]]] = {}  # runs of one model and learner, those with the same settings together
    for folder, config in configs.items():
        groups = of_label.setdefault(_label(config), [])
        same = next((group for group in groups if not _learned_differently(configs[group[0]], config, same_in)), None)
        same.append(folder) if same is not None else groups.append([folder])
    names = {}
    for label, groups in of_label.items():
        firsts = [configs[group[0]] for group in groups]
        differing = sorted(
            {name for one in firsts for other in firsts for name in _learned_differently(one, other, same_in)}
        )
        shown = [", ".join([label, *_values(first, differing)]) for first in firsts]
        for group, first, name in zip(groups, firsts, shown, strict=True):
            if shown.count(name) > 1:  # what is left out tells them apart
                alike = [other for other, text in zip(firsts, shown, strict=True) if text == name]
                apart = sorted({setting for other in alike for setting in _learned_differently(first, other, same_in)})
                name = ", ".join([name, *_values(first, apart, most=len(apart))])
            names |= dict.fromkeys(group, name)
    return names


def _learned_differently(one: Config, other: Config, same_in: tuple[str, ...]) -> list[str]:
    changes = [text.split(":")[0] for text in schema.differences(one, other)]
    return [name for name in changes if not name.startswith(same_in)]


def _values(config: Config, names: Sequence[str], *, most: int = MOST_SETTINGS) -> list[str]:
    """Returns some settings as on the command line; of many only the size's name and the first ones."""
    plain = config.model_dump()
    shown = [f"{name}={_value(plain, name)}" for name in names]
    if len(shown) <= most:
        return shown
    return [f"size={config.size.name}", *shown[:most], f"and {len(shown) - most} more"]


def _value(settings: Mapping[str, Any], name: str) -> Any:
    for key in name.split("."):
        settings = settings.get(key) if isinstance(settings, Mapping) else None  # type: ignore[assignment]
    return settings


def _colours(methods: Iterable[str]) -> dict[str, str]:
    return dict(zip(sorted(set(methods), reverse=True), cycle(PALETTE), strict=False))


def _label(config: Config) -> str:
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
