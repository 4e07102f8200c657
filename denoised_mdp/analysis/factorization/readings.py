"""The leakage matrix in detail: a probe's predictions from each part, step by step, beside the truth.

Shapes: N = rows of all episodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from denoised_mdp.analysis.factorization.filtering import episode_of_row, part_features
from denoised_mdp.analysis.factorization.measure import probed
from denoised_mdp.analysis.factorization.probes import LINEAR, predict, whole_repeats
from denoised_mdp.analysis.factorization.report import KINDS, rows_by_kind
from denoised_mdp.analysis.factorization.targets import Numbers
from denoised_mdp.analysis.posterior import Filtered
from denoised_mdp.analysis.recordings import Recordings
from denoised_mdp.envs import FactorKind

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure


class Reading(NamedTuple):
    """The readings of one numeric factor, or of its first element, in units of its standard deviation."""

    truth: NDArray[np.float64]  # [N]
    read: dict[str, NDArray[np.float64]]  # part -> [N], each row by a probe that has not seen its episode


@threadpool_limits.wrap(limits=1)
def readings(
    filtered: Sequence[Filtered], recordings: Recordings, *, probe: str = LINEAR, seed: int = 0
) -> dict[str, Reading]:
    """Returns the readings of every numeric factor and of the reward, by name."""
    folds = whole_repeats(episode_of_row(recordings.episodes), recordings.repeats)
    numbers = [target for target in probed(recordings)[0] if isinstance(target, Numbers)]
    read = {
        part: predict(probe, features, numbers, folds, seed)
        for part, features in part_features(filtered).items()
        if part != "all"
    }
    return {
        target.name: Reading(
            target.columns[:, 0], {part: predicted[target.name][:, 0] for part, predicted in read.items()}
        )
        for target in numbers
    }


def draw(
    found: Mapping[str, Reading], report: Mapping[str, Any], rows: slice, kind: FactorKind, *, probe: str = LINEAR
) -> Figure:
    """Draws the truth and its predictions in some rows of the recordings: a panel per cell of the report's matrix.

    kind: of the factors to draw, one per row; there is no row if the world has no such numeric factor.
    """
    factors = [(name, row) for name, row in rows_by_kind(report) if name in found and row["kind"] == kind]
    parts = list(report["parts"])
    figure = plt.figure(figsize=(3.6 * len(parts) + 0.8, 1.7 * len(factors) + 0.6), layout="constrained")
    figure.suptitle(KINDS[kind] if factors else f"{KINDS[kind]}: no such factor in this world", fontsize=10)
    for i, (name, row) in enumerate(factors):
        for j, part in enumerate(parts):
            axes = figure.add_subplot(len(factors), len(parts), i * len(parts) + j + 1)
            axes.plot(found[name].truth[rows], color="black", linewidth=1)
            axes.plot(found[name].read[part][rows], color=f"C{j}", linewidth=1.2)
            axes.set(ylim=(-3, 3), xticks=[], yticks=[])
            axes.set_title(f"read from {part}: {row[part][probe]['score']:.2f}", color=f"C{j}", fontsize=9, loc="left")
            if j == 0:
                axes.set_ylabel(f"{name}", fontsize=9)
            if i == len(factors) - 1:
                axes.set_xlabel("time; black: the truth", fontsize=8)
    plt.close(figure)
    return figure
