"""Statistics of few runs: interquartile means, stratified bootstrap, probability of improvement.

The source is Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (arXiv
2108.13264), Sections 4.2 and 4.3. Scores are one array per task, [runs]; tasks may have different numbers of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import trim_mean

Scores = Sequence[NDArray[np.floating]]  # one array [runs] per task
REPEATS = 2000


class Estimate(NamedTuple):
    """A statistic and its 95% interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> float:
    """Returns the mean of the middle half of all scores: neither one lucky run nor one failure decides it.

    A quarter of fewer than four scores is none, so theirs is the plain mean.
    """
    return float(trim_mean(np.concatenate(scores), 0.25))


def probability_of_improvement(ours: Scores, theirs: Scores) -> float:
    """Returns the probability that a run of ours beats one of theirs on the same task, ties counting half.

    It is the mean over tasks, which must be the same in both.
    """
    pairs = [np.subtract.outer(a, b) for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean([np.mean((pair > 0) + 0.5 * (pair == 0)) for pair in pairs]))


def estimate(
    statistic: Callable[..., float], *methods: Scores, rng: np.random.Generator, repeats: int = REPEATS
) -> Estimate:
    """Returns a statistic of the scores of one or two methods, with the percentile interval of a stratified bootstrap.

    Each repeat draws as many runs as there are, with replacement, within each task of each method.
    """

    def resampled(scores: Scores) -> list[NDArray[np.floating]]:
        return [rng.choice(of_task, size=len(of_task)) for of_task in scores]

    values = [statistic(*map(resampled, methods)) for _ in range(repeats)]
    low, high = np.percentile(values, [2.5, 97.5])
    return Estimate(statistic(*methods), float(low), float(high))


def area_under_curve(steps: NDArray[np.floating], returns: NDArray[np.floating]) -> float:
    """Returns the mean of a learning curve [N] over its env steps [N], by trapezoids: it rewards learning early."""
    return float(np.trapezoid(returns, steps) / (steps[-1] - steps[0]))


def steps_to(threshold: float, steps: NDArray[np.floating], returns: NDArray[np.floating]) -> float | None:
    """Returns the env step at which a curve [N] first reaches a return, between evaluations; None: it never does."""
    reached = np.flatnonzero(returns >= threshold)
    if not len(reached):
        return None
    if (i := int(reached[0])) == 0:
        return float(steps[0])
    share = (threshold - returns[i - 1]) / (returns[i] - returns[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
