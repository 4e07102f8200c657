"""The standard measures of disentanglement, on the same recordings: MIG, SAP, DCI and MCC.

All of them compare single dimensions of a code with single factors. A Denoised MDP separates *blocks* of dimensions,
and its objective is the same for any rotation within a block: these measures may be low for a perfect split, and do
not replace the leakage matrix. docs/factorization.md says what each one assumes.

Shapes: N = rows of all episodes, D = dimensions of the code, F = factors, as columns of numbers or as classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.metrics import mutual_info_score
from threadpoolctl import threadpool_limits

from denoised_mdp.analysis.factorization.probes import Folds, whole_repeats
from denoised_mdp.analysis.factorization.targets import Numbers, Target

BINS = 20  # of each dimension and each number, as in Locatello et al. 2019
TREES, DEPTH = 20, 8  # of DCI's forest
MOST_ROWS = 2000
NAMES = {
    "mig": "mutual information gap (MIG)",
    "sap": "separated attribute predictability (SAP)",
    "dci_disentanglement": "disentanglement (DCI)",
    "dci_completeness": "completeness (DCI)",
    "dci_informativeness": "informativeness (DCI)",
    "mcc": "mean correlation coefficient (MCC)",
}


@threadpool_limits.wrap(limits=1)  # these matrices are small: a second thread waits more than it works
def standard_measures(
    code: NDArray[np.floating], targets: Sequence[Target], episode: NDArray[np.int64], repeats: int, *, seed: int = 0
) -> dict[str, float]:
    """Returns every measure of a code [N, D], from 0 to 1; none without factors. For the rest see `whole_repeats`."""
    taken = np.arange(0, len(code), -(-len(code) // MOST_ROWS))
    code, episode = np.asarray(code, np.float64)[taken], episode[taken]
    code = code[:, code.std(axis=0) > 0]
    numbers, classes = _factors(targets, taken)
    if not code.size or not (numbers or classes):
        return {}
    labels = [_binned(column) for column in numbers] + classes
    importance, informativeness = _forests(code, numbers, classes, whole_repeats(episode, repeats), seed)
    return {
        "mig": mutual_information_gap(code, labels),
        "sap": predictability_gap(code, numbers, classes),
        **disentanglement(importance),
        "dci_informativeness": informativeness,
        "mcc": mean_correlation(code, numbers),
    }


def mutual_information_gap(code: NDArray[np.float64], labels: Sequence[NDArray[np.int64]]) -> float:
    """MIG (Chen et al. 2018, Eq. 6): the gap between the two most informative dimensions, over the factor's entropy."""
    binned = [_binned(dimension) for dimension in code.T]
    gaps = []
    for factor in labels:
        known = factor >= 0
        information = sorted(mutual_info_score(factor[known], dimension[known]) for dimension in binned)
        entropy = mutual_info_score(factor[known], factor[known])
        gaps.append((information[-1] - (information[-2] if len(information) > 1 else 0.0)) / entropy)
    return float(np.mean(gaps))


def predictability_gap(
    code: NDArray[np.float64], numbers: Sequence[NDArray[np.float64]], classes: Sequence[NDArray[np.int64]]
) -> float:
    """SAP (Kumar et al. 2018, Sec. 3): the gap between the two dimensions that predict a factor best, each alone.

    The prediction of a number is linear, so that its score is a squared correlation; of classes, the share of the
    variance of their indicators that lies between the bins of the dimension.
    """
    scores = [[_correlation(dimension, column) ** 2 for dimension in code.T] for column in numbers]
    scores += [[_explained(_binned(dimension), factor) for dimension in code.T] for factor in classes]
    best = np.sort(np.array(scores), axis=1)
    second = best[:, -2] if best.shape[1] > 1 else 0.0
    return float(np.mean(best[:, -1] - second))


def disentanglement(importance: NDArray[np.float64]) -> dict[str, float]:
    """DCI (Eastwood and Williams 2018, Sec. 2) from the importances [D, F] of dimensions for factors.

    Disentanglement: 1 minus the entropy of a dimension over factors, weighted by the dimension's importance.
    Completeness: 1 minus the entropy of a factor over dimensions. Each is over the logarithm of its number.
    """
    total = importance.sum()
    if total == 0:
        return {"dci_disentanglement": 0.0, "dci_completeness": 0.0}
    weights = importance.sum(axis=1) / total
    return {
        "dci_disentanglement": float(np.sum(weights * (1 - _entropy(importance)))),
        "dci_completeness": float(np.mean(1 - _entropy(importance.T))),
    }


def mean_correlation(code: NDArray[np.float64], numbers: Sequence[NDArray[np.float64]]) -> float:
    """MCC (Hyvarinen and Morioka 2016): the mean absolute correlation in the best pairing of factors and dimensions."""
    if not numbers:
        return 0.0
    correlations = np.array([[abs(_correlation(dimension, column)) for dimension in code.T] for column in numbers])
    return float(correlations[linear_sum_assignment(-correlations)].sum() / len(numbers))


def _factors(
    targets: Sequence[Target], taken: NDArray[np.int64]
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.int64]]]:
    """Returns the columns of numbers and the labels of classes in some rows; those that are constant there left out."""
    numbers = [column for target in targets if isinstance(target, Numbers) for column in target.columns[taken].T]
    classes = [target.labels[taken] for target in targets if not isinstance(target, Numbers)]
    return (
        [column for column in numbers if np.std(column) > 0],
        [labels for labels in classes if len(np.unique(labels[labels >= 0])) > 1],
    )


def _forests(
    code: NDArray[np.float64],
    numbers: Sequence[NDArray[np.float64]],
    classes: Sequence[NDArray[np.int64]],
    folds: Folds,
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    """Returns the importances [D, F], of forests fitted on the first fold, and their mean score on its other rows."""
    fit, predict = folds[0]
    settings = {"n_estimators": TREES, "max_depth": DEPTH, "random_state": seed, "max_features": "sqrt"}
    importances, scores = [], []
    for column in numbers:
        forest = RandomForestRegressor(**settings).fit(code[fit], column[fit])
        error = np.mean((forest.predict(code[predict]) - column[predict]) ** 2)
        scores.append(max(0.0, 1 - error / max(np.var(column[predict]), 1e-12)))
        importances.append(forest.feature_importances_)
    for labels in classes:
        seen, unseen = fit[labels[fit] >= 0], predict[labels[predict] >= 0]
        forest = RandomForestClassifier(**settings).fit(code[seen], labels[seen])
        chance = np.bincount(labels[unseen]).max() / len(unseen)
        accuracy = np.mean(forest.predict(code[unseen]) == labels[unseen])
        scores.append(max(0.0, float((accuracy - chance) / max(1 - chance, 1e-12))))
        importances.append(forest.feature_importances_)
    return np.array(importances).T, float(np.mean(scores))


def _binned(values: NDArray[np.float64]) -> NDArray[np.int64]:
    edges = np.histogram_bin_edges(values, BINS)
    return np.clip(np.digitize(values, edges[1:-1]), 0, BINS - 1)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(np.sqrt((a @ a) * (b @ b)), 1e-12))


def _explained(bins: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    known = labels >= 0
    bins, indicators = bins[known], np.eye(labels.max() + 1)[labels[known]]
    rows = np.bincount(bins, minlength=BINS)
    sums = np.stack([np.bincount(bins, column, BINS) for column in indicators.T], axis=1)
    means = sums / np.maximum(rows, 1)[:, None]
    between = np.sum(rows[:, None] * (means - indicators.mean(axis=0)) ** 2) / len(bins)
    return float(between / max(np.sum(indicators.var(axis=0)), 1e-12))


def _entropy(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the entropy of each row of weights [.., M], over log M; 1 for a row of zeros."""
    count = rows.shape[1]
    total = rows.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, rows / np.where(total > 0, total, 1), 1 / count)
    logs = np.log(np.where(shares > 0, shares, 1))
    return -np.sum(shares * logs, axis=1) / max(np.log(count), 1e-12)
