"""The result of `measure`, as JSON, Markdown and a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from denoised_mdp.analysis.factorization import standard
from denoised_mdp.config.sections import NOISE_NAMES
from denoised_mdp.envs import FACTOR_KINDS

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

KINDS = {
    "controlled_rewarded": "signal: controlled, rewarded",
    "controlled": "noise: controlled",
    "rewarded": "noise: rewarded",
    "neither": "noise: neither",
    None: "the reward itself",
}
HEADLINE = {
    "signal_in_x": "signal kept in x",
    "noise_in_x": "noise leaked into x",
    "signal_outside_x": "signal stranded outside x",
}
MOVES = {
    "all": "everything moves",
    "x": "only x moves",
    "noise": f"only {' and '.join(NOISE_NAMES)} move",
    "nothing": "nothing moves",
}
PLACES = {"on_robot": "on the robot", "off_robot": "off the robot"}


def write(folder: Path, report: Mapping[str, Any]) -> list[Path]:
    """Writes factorization.json, .md and .png into a folder, and returns their paths."""
    paths = [folder / f"factorization.{suffix}" for suffix in ("json", "md", "png")]
    paths[0].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    paths[1].write_text(markdown(report))
    draw(report).savefig(paths[2], dpi=110)
    return paths


def parts(report: Mapping[str, Any]) -> list[str]:
    """Returns the parts of a report's model, in order."""
    return list(report["parts"])


def markdown(report: Mapping[str, Any]) -> str:
    """Returns the report in words and tables; docs/factorization.md explains it."""
    names = parts(report)
    lines = [f"# Factorization of {report['title']}", ""]
    lines += [f"**{alarm['name']}**: {alarm['text']}." for alarm in report["alarms"]] or ["No alarm."]
    recordings = report["recordings"]
    lines += [
        "",
        f"{report['episodes']} held-out episodes, {report['rows']} rows, policies "
        f"{', '.join(dict.fromkeys(recordings['policies']))}, seed {recordings['seed']}. Intervals: 95% over episodes.",
        "",
        "| | value | interval | |",
        "|---|---|---|---|",
    ]
    for name, title in HEADLINE.items():
        estimate = report["headline"][name]
        lines.append(f"| {title} | {_interval(estimate, ' | ')} | {(estimate or {}).get('factor', '')} |")
    lines += ["", "## Leakage matrix", ""]
    lines += ["Score (its baseline, with another episode's labels); the linear probe, then the non-linear one.", ""]
    columns = [*names, "all"]
    lines += [f"| kind | factor | measure | {' | '.join(columns)} |", "|---|---|---|" + "---|" * len(columns)]
    for name, row in rows_by_kind(report):
        measure = row["measure"] if "chance" not in row else f"accuracy above chance {row['chance']:.2f}"
        cells = [", ".join(f"{s['score']:.2f} ({s['baseline']:.2f})" for s in row[part].values()) for part in columns]
        lines.append(f"| {KINDS[row['kind']]} | `{name}` | {measure} | {' | '.join(cells)} |")
    if report["left_out"]:
        reasons = "; ".join(f"`{name}`, because {why}" for name, why in report["left_out"].items())
        lines += ["", f"Not probed: {reasons}."]
    lines += ["", "## The parts", ""]
    lines += [
        "| | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        _row("KL, nats per step", [report["parts"][part]["kl"] for part in names]),
        _row(
            "share of the action in the variance of its one-step prediction",
            [report["parts"][part]["controllability"] for part in names],
        ),
        _row(
            "gain in R² from the action, for a prediction of its posterior",
            [report["parts"][part]["action_gain"] for part in names],
        ),
        _row(
            "share of the reward's variance that its head explains",
            [report["parts"][part]["reward_explained"] for part in names],
        ),
    ]
    if report["clean_pairs"]:
        lines.append(
            "| share of the noise in its movement, in clean pairs | "
            + " | ".join(_interval(report["clean_pairs"][part]["noise_share"], ", ") for part in names)
            + " |"
        )
    lines += ["", f"All heads together explain {_number(report['reward_explained_by_all'])} of the reward's variance."]
    if report["reconstruction"]:
        lines += ["", "## Reconstruction", "", "Mean squared error of a pixel; black to white is 1.", ""]
        lines += [f"| | {' | '.join(MOVES.values())} |", "|---|" + "---|" * len(MOVES)]
        for place, title in PLACES.items():
            errors = report["reconstruction"][place]
            lines.append(f"| {title} | " + " | ".join(f"{errors[name]:.5f}" for name in MOVES) + " |")
    if report.get("standard"):
        lines += ["", "## Standard measures", "", "Of single dimensions of all parts together, from 0 to 1.", ""]
        lines += ["| measure | value |", "|---|---|"]
        lines += [f"| {title} | {report['standard'][name]:.2f} |" for name, title in standard.NAMES.items()]
    return "\n".join(lines) + "\n"


def estimate_text(estimate: Mapping[str, Any] | None) -> str:
    """Formats an estimate: 0.83 (0.79 to 0.86), and its factor, if it has one."""
    if estimate is None:
        return "no such factor in this world"
    factor = f", {estimate['factor']}" if "factor" in estimate else ""
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f}{factor})"


def rows_by_kind(report: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns the matrix's rows, signal first and the reward last."""
    order = [*FACTOR_KINDS, None]
    return sorted(report["matrix"].items(), key=lambda item: order.index(item[1]["kind"]))


def draw(report: Mapping[str, Any]) -> Figure:
    """Draws the matrix, beside the three numbers and the other measures."""
    rows = rows_by_kind(report)
    figure = plt.figure(figsize=(13, max(6.5, 2.6 + 0.42 * len(rows))), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.15, 1))[0]
    _draw_matrix(left.subplots(), report, rows)
    panels = 2 + bool(report["clean_pairs"]) + bool(report["reconstruction"])
    axes = iter(right.subplots(panels, 1))
    _draw_headline(next(axes), report)
    _draw_parts(next(axes), report)
    if report["clean_pairs"]:
        _draw_pairs(next(axes), report)
    if report["reconstruction"]:
        _draw_reconstruction(next(axes), report)
    alarms = "\n".join(alarm["text"] for alarm in report["alarms"]) or "no alarm"
    figure.suptitle(f"{report['title']}\n{alarms}", color="firebrick" if report["alarms"] else "black", fontsize=11)
    plt.close(figure)
    return figure


def _draw_matrix(axes: Any, report: Mapping[str, Any], rows: list[tuple[str, dict[str, Any]]]) -> None:
    columns = [*parts(report), "all"]
    scores = np.array([[_best(row[part])["score"] for part in columns] for _, row in rows])
    axes.imshow(scores, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, (_, row) in enumerate(rows):
        for j, part in enumerate(columns):
            score = _best(row[part])
            colour = "white" if score["score"] > 0.6 else "black"
            axes.text(j, i - 0.08, f"{score['score']:.2f}", ha="center", va="center", color=colour, fontsize=11)
            interval = f"{score['low']:.2f} to {score['high']:.2f}"
            axes.text(j, i + 0.27, interval, ha="center", va="center", color=colour, fontsize=7)
    axes.set_xticks(range(len(columns)), [f"from {part}" if part != "all" else "from all" for part in columns])
    axes.set_yticks(range(len(rows)), [f"{name}\n{KINDS[row['kind']]}" for name, row in rows], fontsize=8)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for i in range(1, len(rows)):
        if rows[i][1]["kind"] != rows[i - 1][1]["kind"]:
            axes.axhline(i - 0.5, color="black", linewidth=1)
    axes.axvline(len(columns) - 1.5, color="black", linewidth=1)
    axes.set_title("how much of each true factor a probe reads (0 nothing, 1 all), with 95% intervals", fontsize=10)


def _draw_headline(axes: Any, report: Mapping[str, Any]) -> None:
    for i, name in enumerate(HEADLINE):
        estimate = report["headline"][name]
        colour = "tab:blue" if name == "signal_in_x" else "tab:red"
        if estimate is None:
            axes.text(0.01, i, "no such factor in this world", va="center", fontsize=8)
            continue
        _bar(axes, i, estimate, colour)
        factor = f"  ({estimate['factor']})" if "factor" in estimate else ""
        axes.text(max(estimate["high"], estimate["value"]) + 0.02, i, f"{estimate['value']:.2f}{factor}", va="center")
    _finish(axes, list(HEADLINE.values()), "high, low, low is good")


def _draw_parts(axes: Any, report: Mapping[str, Any]) -> None:
    """Draws shares between 0 and 1 for every part."""
    measures = {
        "controllability": "share of the action in its prediction",
        "action_gain": "gain in its prediction from the action",
        "reward_explained": "share of the reward that its head explains",
    }
    names = parts(report)
    height = 0.8 / len(names)
    for j, part in enumerate(names):
        for i, name in enumerate(measures):
            value = report["parts"][part][name]
            if value is not None:
                place = i + (j - (len(names) - 1) / 2) * height
                axes.barh(place, value, height * 0.9, color=f"C{j}", label=part if i == 0 else None)
                axes.text(max(value, 0) + 0.02, place, f"{part} {value:.2f}", va="center", fontsize=8)
    _finish(axes, list(measures.values()), "action and reward")


def _draw_pairs(axes: Any, report: Mapping[str, Any]) -> None:
    names = parts(report)
    for i, part in enumerate(names):
        share = report["clean_pairs"][part]["noise_share"]
        _bar(axes, i, share, f"C{i}")
        axes.text(share["high"] + 0.02, i, f"{share['value']:.2f}", va="center")
    _finish(axes, names, "clean pairs: movement due to noise")


def _draw_reconstruction(axes: Any, report: Mapping[str, Any]) -> None:
    colours = {"all": "black", "x": "C0", "noise": "C1", "nothing": "lightgray"}
    most = max(report["reconstruction"][place][name] for place in PLACES for name in MOVES)
    for i, place in enumerate(PLACES):
        for j, (name, title) in enumerate(MOVES.items()):
            value = report["reconstruction"][place][name]
            where = i + (j - 1.5) * 0.2
            axes.barh(where, value, 0.18, color=colours[name])
            axes.text(value + most * 0.01, where, f"{title} {value:.4f}", va="center", fontsize=8)
    _finish(axes, list(PLACES.values()), "mean squared error of the reconstruction", limit=most * 1.7)


def _bar(axes: Any, place: float, estimate: Mapping[str, float], colour: str) -> None:
    axes.barh(place, estimate["value"], 0.6, color=colour, alpha=0.8)
    axes.plot([estimate["low"], estimate["high"]], [place, place], color="black", linewidth=1.5)


def _finish(axes: Any, labels: list[str], title: str, *, limit: float = 1.35) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, limit)
    if limit == 1.35:
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _best(cell: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(cell.values(), key=lambda score: score["score"])


def _interval(estimate: Mapping[str, float] | None, between: str) -> str:
    if estimate is None:
        return f"none here{between}"
    return f"{estimate['value']:.2f}{between}{estimate['low']:.2f} to {estimate['high']:.2f}"


def _row(title: str, values: list[float | None]) -> str:
    return f"| {title} | " + " | ".join(_number(value) for value in values) + " |"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
