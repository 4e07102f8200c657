"""The leakage matrices of several runs side by side: one per model, with the mean over its seeds and each seed."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from denoised_mdp.analysis.factorization.report import HEADLINE, KINDS, rows_by_kind
from denoised_mdp.errors import UserError, one_line

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Report = Mapping[str, Any]  # the contents of `factorization.json`
MEASURED = ("seed", "env_step", "headline", "alarms", "matrix", "parts", "clean_pairs", "reconstruction")
LETTERS_PER_INCH = 15  # at most, in the smallest print
TITLES = {"x": "x alone\n(Dreamer)", "tia": "TIA", "xy": "x and y\n(Fig. 2b)", "xyz": "x, y and z\n(Fig. 2c)"}
# The information that each method's x should keep and drop, by the paper's Fig. 3. It may do either with missing kinds.
EXPECTED = {
    "x": {"controlled_rewarded": "keep", "controlled": "keep", "rewarded": "keep", "neither": "keep"},
    "tia": {"controlled_rewarded": "keep", "rewarded": "keep"},
    "xy": {"controlled_rewarded": "keep", "controlled": "keep", "rewarded": "drop", "neither": "drop"},
    "xyz": {"controlled_rewarded": "keep", "controlled": "drop", "rewarded": "drop", "neither": "drop"},
}


def read(folders: Sequence[Path]) -> dict[str, list[Report]]:
    """Returns the reports of some runs by model, in the order of their seeds.

    Raises:
        UserError: a folder has no `factorization.json`, two reports have the same model and seed, or the recordings
            differ.
    """
    reports = [_report(folder) for folder in folders]
    if len({json.dumps(report["recordings"], sort_keys=True) for report in reports}) > 1:
        raise UserError("the reports use different recordings: give factorization.py the same data=FILE for all")
    models: dict[str, list[Report]] = {}
    for report in sorted(reports, key=lambda report: report["seed"]):
        models.setdefault(report["model"]["name"], []).append(report)
    for name, seeds in models.items():
        if len({report["seed"] for report in seeds}) < len(seeds):
            raise UserError(f"two of the reports have model={name} and the same seed")
    return {name: models[name] for name in sorted(models, key=_place)}


def scores(reports: Sequence[Report], factor: str, part: str) -> list[float]:
    """Returns the score of a factor from a part, by the better probe, for each seed."""
    return [max(probe["score"] for probe in report["matrix"][factor][part].values()) for report in reports]


def draw(models: Mapping[str, Sequence[Report]]) -> Figure:
    """Draws a matrix for each model, with the same rows. The column of x shows what the paper expects of the method."""
    rows = rows_by_kind(next(iter(models.values()))[0])
    widths = [len(seed_reports[0]["parts"]) + 0.35 for seed_reports in models.values()]
    figure, panels = plt.subplots(
        1,
        len(models),
        figsize=(2.2 + 1.15 * sum(widths), 1.5 + 0.75 * len(rows)),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    for j, (axes, (name, seed_reports)) in enumerate(zip(panels[0], models.items(), strict=True)):
        parts = list(seed_reports[0]["parts"])
        table = np.array([[np.mean(scores(seed_reports, factor, part)) for part in parts] for factor, _ in rows])
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, (factor, row) in enumerate(rows):
            for k, part in enumerate(parts):
                seeds = scores(seed_reports, factor, part)
                colour = "white" if np.mean(seeds) > 0.6 else "black"
                axes.text(k, i - 0.14, f"{np.mean(seeds):.2f}", ha="center", va="center", color=colour, fontsize=11)
                each = " ".join(f"{score:.2f}" for score in seeds)
                axes.text(k, i + 0.16, each, ha="center", va="center", color=colour, fontsize=6)
            if expected := EXPECTED.get(name, {}).get(row["kind"]):
                colour = "white" if table[i, 0] > 0.6 else "black"
                axes.text(
                    0, i + 0.36, f"to {expected}", ha="center", va="center", color=colour, fontsize=7, style="italic"
                )
        axes.set_title(f"{TITLES.get(name, name)}\n", fontsize=10)
        axes.set_xticks(range(len(parts)), parts)
        axes.xaxis.tick_top()
        labels = [f"{factor}\n{KINDS[row['kind']]}" for factor, row in rows]
        axes.set_yticks(range(len(rows)), labels if j == 0 else [""] * len(rows), fontsize=8)
        axes.tick_params(length=0)
    note = (
        "Score of a probe for each factor (0 nothing, 1 all): the mean, and below it each seed. Italics: the expected "
        "behaviour of the method's x."
    )
    figure.supxlabel(textwrap.fill(note, int(LETTERS_PER_INCH * figure.get_figwidth())), fontsize=8)
    plt.close(figure)
    return figure


def markdown(models: Mapping[str, Sequence[Report]]) -> str:
    """Returns a table of the scores from x, the three numbers and the alarms: the mean over seeds, and each seed."""
    rows = rows_by_kind(next(iter(models.values()))[0])
    lines = [f"| from x | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
    for factor, row in rows:
        cells = [_cell(scores(seed_reports, factor, "x")) for seed_reports in models.values()]
        lines.append(f"| `{factor}`, {KINDS[row['kind']]} | {' | '.join(cells)} |")
    for name, title in HEADLINE.items():
        estimates = [[report["headline"][name] for report in seed_reports] for seed_reports in models.values()]
        if estimates[0][0] is not None:  # None in all of them: the world has no such factor
            cells = [_cell([estimate["value"] for estimate in seeds]) for seeds in estimates]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    alarms = ["; ".join(_alarms(report) for report in seed_reports) for seed_reports in models.values()]
    lines.append(f"| alarms, by seed | {' | '.join(alarms)} |")
    return "\n".join(lines) + "\n"


def summary(models: Mapping[str, Sequence[Report]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the measures of each run, without its folders."""
    return {
        name: [{key: report[key] for key in MEASURED} for report in seed_reports]
        for name, seed_reports in models.items()
    }


def _place(name: str) -> tuple[int, str]:
    """Returns a sort key: the paper's models in its order, then others by name."""
    order = list(TITLES)
    return (order.index(name) if name in order else len(order)), name


def _cell(values: Sequence[float]) -> str:
    return f"**{np.mean(values):.2f}** ({', '.join(f'{value:.2f}' for value in values)})"


def _alarms(report: Report) -> str:
    return ", ".join(dict.fromkeys(alarm["name"] for alarm in report["alarms"])) or "none"


def _report(folder: Path) -> Report:
    path = folder / "factorization.json"
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}; the command factorization makes it") from error
