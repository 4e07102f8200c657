"""The leakage matrix: scores of probes that are fitted on some episodes and predict a true factor in others.

A factor's score lies between 0 (nothing) and 1 (everything): the mean R^2 of its elements, negative ones counted as 0;
for classes (accuracy - chance) / (1 - chance), where chance is the share of the commonest class.
Shapes: N = rows of all episodes, E = episodes, D = features, C = columns, R = resamples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from denoised_mdp.analysis.factorization.targets import Classes, Numbers, Target

LINEAR, NONLINEAR = "linear", "nonlinear"
MOST_ROWS = 4000  # neighbouring rows are nearly the same: longer recordings use every n-th
RESAMPLES = 1000  # of episodes, for the confidence intervals
RIDGE = 1e-3  # penalty per row, for features of variance 1
HIDDEN, DECAY, UPDATES, BATCH = 64, 3.0, 1000, 200  # of the non-linear probe; few updates, so that it hardly overfits


class Score(NamedTuple):
    """The score of one factor."""

    value: float
    draws: NDArray[np.float64]  # [R], the value in resampled episodes, the same ones for the r-th draw of all scores
    baseline: float  # the score with the labels of another episode: the effect of time alone, or luck
    elements: list[float]  # the plain R^2 of each element, or the accuracy of classes
    chance: float | None  # of classes

    @property
    def low(self) -> float:
        """The lower end of the 95% confidence interval, over episodes."""
        return float(np.percentile(self.draws, 2.5))

    @property
    def high(self) -> float:
        """The upper end of that interval."""
        return float(np.percentile(self.draws, 97.5))


Cell = dict[str, Score]  # the probes of one factor from one part, by the kind of probe
Matrix = dict[str, dict[str, Cell]]  # part -> factor


def best(cell: Cell) -> Score:
    """Returns the probe with the higher score."""
    return max(cell.values(), key=lambda score: score.value)


Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]  # rows to fit on, rows to predict


def whole_repeats(episode: NDArray[np.int64], repeats: int) -> Folds:
    """Returns balanced folds: each repeat of all policies in all environments is predicted from the other repeats.

    With single held-out episodes, their policy would be rarer in their environment among the others: a probe that
    recognises the policy would be misled about the video, and score less than one without information.
    episode: [N], the number of each row's episode; the E episodes come in `repeats` equal groups, at least two.
    """
    run = episode * repeats // (int(episode.max()) + 1)
    return [(np.flatnonzero(run != held_out), np.flatnonzero(run == held_out)) for held_out in range(repeats)]


@threadpool_limits.wrap(limits=1)  # these matrices are small: a second thread waits more than it works
def leakage_matrix(
    features: Mapping[str, NDArray[np.floating]],
    targets: Sequence[Target],
    episode: NDArray[np.int64],
    repeats: int,
    *,
    kinds: Sequence[str] = (LINEAR, NONLINEAR),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Matrix:
    """Probes every part's features [N, D] for every target. `episode` [N] and `repeats`: see `whole_repeats`."""
    taken = np.arange(0, len(episode), -(-len(episode) // MOST_ROWS))
    episode, targets = episode[taken], [_take(target, taken) for target in targets]
    rng = np.random.default_rng(seed)
    count = int(episode.max()) + 1
    exchanged = [_take(target, _rows_of_another_episode(episode, rng)) for target in targets]
    weights = rng.multinomial(count, np.full(count, 1 / count), resamples)
    folds = whole_repeats(episode, repeats)
    matrix: Matrix = {}
    for part, columns in features.items():
        cells: dict[str, Cell] = {target.name: {} for target in targets}
        for kind in kinds:
            inputs = columns[taken].astype(np.float32)
            predicted = predict(kind, inputs, targets, folds, seed)
            baselines = predict(kind, inputs, exchanged, folds, seed)
            for target, other in zip(targets, exchanged, strict=True):
                score = _score(target, predicted[target.name], episode, weights)
                baseline = _score(other, baselines[target.name], episode, weights).value
                cells[target.name][kind] = score._replace(baseline=baseline)
        matrix[part] = cells
    return matrix


def _take(target: Target, rows: NDArray[np.int64]) -> Target:
    if isinstance(target, Numbers):
        return target._replace(columns=target.columns[rows])
    return target._replace(labels=target.labels[rows])


def _rows_of_another_episode(episode: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns for each row one of another episode at the same time, so that labels keep their course in time only."""
    starts = np.searchsorted(episode, np.arange(episode.max() + 1))
    lengths = np.bincount(episode)
    order = rng.permutation(len(starts))
    donor = np.empty_like(order)
    donor[order] = np.roll(order, 1)
    time = np.arange(len(episode)) - starts[episode]
    given = donor[episode]
    return starts[given] + np.minimum(time, lengths[given] - 1)


def predict(
    kind: str,
    inputs: NDArray[np.float32],
    targets: Sequence[Target],
    folds: Folds,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Returns every row's prediction by a probe that has not seen its episode: columns [N, C], or labels [N]."""
    numbers = [target for target in targets if isinstance(target, Numbers)]
    columns = np.concatenate([target.columns for target in numbers] or [np.zeros((len(inputs), 0))], axis=-1)
    predicted_columns = np.zeros_like(columns)
    predicted: dict[str, NDArray[Any]] = {
        target.name: np.full(len(inputs), -1) for target in targets if isinstance(target, Classes)
    }
    for train, test in folds:
        scaler = StandardScaler().fit(inputs[train])
        seen, unseen = (np.asarray(scaler.transform(inputs[rows])) for rows in (train, test))
        if numbers:
            outputs = columns[train] if columns.shape[1] > 1 else columns[train, 0]
            model = _fit(_regressor(kind, len(train), seed), seen, outputs)
            predicted_columns[test] = model.predict(unseen).reshape(len(test), -1)
        for target in targets:
            if isinstance(target, Classes):
                labels = target.labels[train]
                labelled = labels >= 0
                if len(np.unique(labels[labelled])) > 1:
                    model = _fit(_classifier(kind, int(labelled.sum()), seed), seen[labelled], labels[labelled])
                    predicted[target.name][test] = model.predict(unseen)
    ends = np.cumsum([target.columns.shape[1] for target in numbers])
    return predicted | {
        target.name: predicted_columns[:, end - target.columns.shape[1] : end]
        for target, end in zip(numbers, ends, strict=True)
    }


def _regressor(kind: str, rows: int, seed: int) -> Any:
    if kind == LINEAR:
        return Ridge(alpha=RIDGE * rows)
    return MLPRegressor(**_network(rows, seed))


def _classifier(kind: str, rows: int, seed: int) -> Any:
    if kind == LINEAR:
        return LogisticRegression(C=0.1, max_iter=200)
    return MLPClassifier(**_network(rows, seed))


def _network(rows: int, seed: int) -> dict[str, Any]:
    epochs = -(-UPDATES * BATCH // rows)
    return {
        "hidden_layer_sizes": (HIDDEN,),
        "alpha": DECAY,
        "batch_size": min(BATCH, rows),
        "max_iter": epochs,
        "random_state": seed,
    }


def _fit(model: Any, inputs: NDArray[np.float32], outputs: NDArray[Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(inputs, outputs)


def _score(target: Target, predicted: NDArray[Any], episode: NDArray[np.int64], weights: NDArray[np.int64]) -> Score:
    """Returns a score without its baseline. `weights` [R, E]: the count of each episode in each resample."""
    count = weights.shape[1]
    once = np.ones((1, count))
    if isinstance(target, Classes):
        labelled = target.labels >= 0
        correct = np.bincount(episode, labelled & (predicted == target.labels), count)
        rows = np.bincount(episode, labelled, count)
        chance = float(np.bincount(target.labels[labelled]).max() / labelled.sum())

        def accuracy(weights: NDArray[Any]) -> NDArray[np.float64]:
            return (weights @ correct) / np.maximum(weights @ rows, 1)

        def skill(weights: NDArray[Any]) -> NDArray[np.float64]:
            return np.maximum((accuracy(weights) - chance) / (1 - chance), 0)

        return Score(float(skill(once)[0]), skill(weights), 0.0, accuracy(once).tolist(), chance)

    names, element = np.unique(target.elements, return_inverse=True)
    error, spread = np.zeros((count, len(names))), np.zeros((count, len(names)))
    mean = target.columns.mean(0)
    for column, into in enumerate(element):
        error[:, into] += np.bincount(episode, (target.columns[:, column] - predicted[:, column]) ** 2, count)
        spread[:, into] += np.bincount(episode, (target.columns[:, column] - mean[column]) ** 2, count)

    def r_squared(weights: NDArray[Any]) -> NDArray[np.float64]:
        return 1 - (weights @ error) / np.maximum(weights @ spread, 1e-12)

    def score(weights: NDArray[Any]) -> NDArray[np.float64]:
        return np.maximum(r_squared(weights), 0).mean(-1)

    return Score(float(score(once)[0]), score(weights), 0.0, r_squared(once)[0].tolist(), None)
