"""True factors in the form that a probe can predict.

Shapes: N = rows of all episodes, C = columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs import FactorKind

MOST_CLASSES = 20  # an integer factor with more values counts as a number
REWARD = "reward"  # probed beside the factors, though it is not one


class Numbers(NamedTuple):
    """A numeric factor. Each column has mean 0 and variance 1; a turning angle has two, its sine and its cosine."""

    name: str
    kind: FactorKind | None  # None: the reward
    columns: NDArray[np.float64]  # [N, C]
    elements: NDArray[np.int64]  # [C], the element of the factor for each column


class Classes(NamedTuple):
    """A factor with a few values."""

    name: str
    kind: FactorKind | None
    labels: NDArray[np.int64]  # [N], -1 for a value that occurs in one episode only: no other could teach it


Target = Numbers | Classes


def targets(
    factors: Mapping[str, NDArray[Any]],
    kinds: Mapping[str, FactorKind],
    periods: Mapping[str, NDArray[np.float64]],
    reward: NDArray[np.floating],
    episode: NDArray[np.int64],
) -> tuple[list[Target], dict[str, str]]:
    """Returns the targets from factors [N, ...] and the reward [N], and the reasons why other factors have none.

    Integers and truth values, one per row and with at most MOST_CLASSES values, are classes. A factor that wraps
    (`World.factor_periods`) is probed as sine and cosine. Constant elements are left out.

    episode: [N], the number of each row's episode.
    """
    result: list[Target] = []
    left_out = {}
    for name, kind in [*kinds.items(), (REWARD, None)]:
        values = reward if kind is None else factors[name]
        if values.dtype.kind in "iub" and values.ndim == 1 and name not in periods:
            distinct, labels = np.unique(values, return_inverse=True)
            if len(distinct) <= MOST_CLASSES:
                learnable = [len(np.unique(episode[labels == label])) > 1 for label in range(len(distinct))]
                if sum(learnable) > 1:
                    result.append(Classes(name, kind, np.where(np.array(learnable)[labels], labels, -1)))
                else:
                    left_out[name] = "no two of its values occur in more than one episode each"
                continue
        columns, elements = _columns(values.reshape(len(values), -1).astype(np.float64), periods.get(name))
        if columns.shape[1]:
            result.append(Numbers(name, kind, columns, elements))
        else:
            left_out[name] = "it does not vary in these episodes"
    return result, left_out


def _columns(
    values: NDArray[np.float64], periods: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    columns, elements = [], []
    for element, period in enumerate(np.broadcast_to(0.0 if periods is None else periods, values.shape[1:])):
        value = values[:, element]
        angle = 2 * np.pi * value / period if period else None
        for column in (value,) if angle is None else (np.sin(angle), np.cos(angle)):
            if (spread := column.std()) > 1e-9 * (1 + np.abs(column).max()):
                columns.append((column - column.mean()) / spread)
                elements.append(element)
    return np.stack(columns, -1) if columns else np.zeros((len(values), 0)), np.array(elements, np.int64)
