"""The results of `regression.py`, as JSON, Markdown and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

TITLES = {
    "finetuned": "the run's encoder, trained further",
    "frozen": "the run's encoder, unchanged",
    "scratch": "a new encoder",
}


def write(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Writes regress.json, .md and .png into a folder, and returns their paths."""
    paths = [folder / f"regress.{suffix}" for suffix in ("json", "md", "png")]
    paths[0].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    paths[1].write_text(markdown(report))
    draw(report, paths[2])
    return paths


def markdown(report: Mapping[str, Any]) -> str:
    """Returns the report in words and tables; docs/regression.md explains it."""
    encoders = list(report["results"])
    lines = [
        f"# Regression of {report['factor']}: {report['title']}",
        "",
        f"{report['test_rows']} test rows of {report['test_episodes']} episodes that were not trained on, policies "
        f"{', '.join(dict.fromkeys(report['recordings']['policies']))}. {report['updates']} updates of "
        f"{report['batch_size']} rows, learning rate {report['learning_rate']}.",
        "",
        "Unexplained share of the variance, and its 95% interval over test episodes; a constant prediction has 1.",
        "",
        f"| train rows | {' | '.join(TITLES[encoder] for encoder in encoders)} |",
        "|---|" + "---|" * len(encoders),
    ]
    for i, size in enumerate(report["sizes"]):
        results = [report["results"][encoder][i] for encoder in encoders]
        cells = [f"{r['unexplained']:.3g} ({r['low']:.3g} to {r['high']:.3g})" for r in results]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Mean squared error, in the units of `{report['factor']}` (the paper's measure); a constant prediction has ",
    ]
    lines[-1] += f"{report['constant_mse']:.3g}."
    lines += ["", f"| train rows | {' | '.join(TITLES[encoder] for encoder in encoders)} |"]
    lines += ["|---|" + "---|" * len(encoders)]
    for i, size in enumerate(report["sizes"]):
        cells = [f"{report['results'][encoder][i]['mse']:.3g}" for encoder in encoders]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    lines += ["", f"Unexplained share of each column, from {report['sizes'][-1]} rows.", ""]
    lines += [f"| | {' | '.join(TITLES[encoder] for encoder in encoders)} |", "|---|" + "---|" * len(encoders)]
    for j, name in enumerate(report["columns"]):
        cells = [f"{report['results'][encoder][-1]['by_column'][j]:.3g}" for encoder in encoders]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draws the test error by the size of the train set, and the learning curves of the largest set."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    sizes = report["sizes"]
    for i, (encoder, results) in enumerate(report["results"].items()):
        error = [result["unexplained"] for result in results]
        low, high = ([result[end] for result in results] for end in ("low", "high"))
        left.plot(sizes, error, marker="o", color=f"C{i}", label=TITLES[encoder])
        left.fill_between(sizes, low, high, color=f"C{i}", alpha=0.15)
        right.plot(*zip(*results[-1]["curve"], strict=True), color=f"C{i}", label=TITLES[encoder])
    left.set(
        xscale="log", xlabel="train rows", ylabel="test error (1: a constant)", title="by the size of the train set"
    )
    left.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    left.minorticks_off()
    right.set(xlabel="updates", title=f"during training, from {sizes[-1]} rows")
    for axes in (left, right):
        axes.set_yscale("log")  # the error of a good network is a hundredth of a constant's
        axes.grid(alpha=0.3)
        axes.axhline(1, color="black", linestyle=":", linewidth=1)
        axes.yaxis.set_major_formatter("{x:.2g}")
        axes.yaxis.set_minor_formatter("{x:.2g}" if axes.get_ylim()[0] > 0.1 else "")
    right.legend(frameon=False)
    figure.suptitle(f"{report['factor']} from one picture: {report['title']}", fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
