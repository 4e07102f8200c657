"""The leakage matrix in three numbers, and an alarm in words.

Signal is what is controlled and rewarded; the other three kinds of information are noise (the paper's Fig. 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.analysis.factorization.probes import Matrix, best
from denoised_mdp.envs import FactorKind

SIGNAL: FactorKind = "controlled_rewarded"
# What a part other than x is there for (Fig. 2). Without z, what is controlled but not rewarded has no place but x.
MEANT_FOR: dict[str, tuple[FactorKind, ...]] = {"y": ("rewarded", "neither"), "z": ("controlled",)}

# The alarm's limits: our choice, wide enough that a probe's luck does not cross them.
NO_NATS = 0.5  # a step; below it a part is all but its prior
ABOVE_BASELINE = 0.1  # a probe that is less than that above its baseline reads nothing
MUCH = 0.3  # a score from which a part knows a factor well enough to matter
MORE = 0.1  # by which y or z must know more of the signal than x does, to be called swapped


class Estimate(NamedTuple):
    """A number with its 95% confidence interval over episodes."""

    value: float
    low: float
    high: float
    factor: str | None = None  # the factor that it belongs to, if any


class Headline(NamedTuple):
    """None where a world has no such factor."""

    signal_in_x: Estimate | None  # signal kept: the mean score of its factors from x
    noise_in_x: Estimate | None  # noise leaked: the score of that noise factor which x surely knows best
    signal_outside_x: Estimate | None  # signal stranded: how much more of it all parts together know than x does


class Alarm(NamedTuple):
    """A reason not to trust a return."""

    name: str  # collapsed | swapped | leaking
    part: str
    text: str


def headline(matrix: Matrix, kinds: Mapping[str, FactorKind]) -> Headline:
    """Returns the three numbers. For each factor the better probe counts.

    kinds: of the factors; other rows of the matrix (the reward) are ignored.
    """
    signal = [name for name in matrix["x"] if kinds.get(name) == SIGNAL]
    noise = [name for name in matrix["x"] if name in kinds and name not in signal]
    return Headline(
        signal_in_x=knowledge(matrix, "x", signal),
        noise_in_x=best_known(matrix, "x", noise),
        signal_outside_x=_stranded(matrix, signal),
    )


def knowledge(matrix: Matrix, part: str, factors: Sequence[str]) -> Estimate | None:
    """The mean score of some factors from a part."""
    if not factors:
        return None
    scores = [best(matrix[part][name]) for name in factors]
    return _estimate(np.mean([score.value for score in scores]), np.mean([score.draws for score in scores], axis=0))


def best_known(matrix: Matrix, part: str, factors: Sequence[str]) -> Estimate | None:
    """The factor that a part surely knows best, by the lower end of the interval.

    Not the mean: a factor that nobody could read off the picture would hide that another one has leaked.
    """
    if not factors:
        return None
    name = max(factors, key=lambda name: (best(matrix[part][name]).low, best(matrix[part][name]).value))
    score = best(matrix[part][name])
    return Estimate(score.value, score.low, score.high, name)


def alarms(matrix: Matrix, kinds: Mapping[str, FactorKind], kl: Mapping[str, float]) -> list[Alarm]:
    """Returns the faults of a factorization, in words; empty if there are none.

    kl: of each part that is there, nats a step.
    """
    return [*_collapsed(matrix, kinds, kl), *_swapped(matrix, kinds, kl), *_leaking(matrix, kinds, kl)]


def _collapsed(matrix: Matrix, kinds: Mapping[str, FactorKind], kl: Mapping[str, float]) -> Iterator[Alarm]:
    for part, nats in kl.items():
        needed = part == "x" or any(kind in MEANT_FOR[part] for kind in kinds.values())
        scores = [best(cell) for name, cell in matrix[part].items() if name in kinds]
        reads_nothing = all(score.low <= score.baseline + ABOVE_BASELINE for score in scores)
        if needed and nats < NO_NATS and reads_nothing:
            yield Alarm(
                "collapsed",
                part,
                f"{part} has collapsed: it carries {nats:.2f} nats a step and no probe reads anything from it",
            )


def _swapped(matrix: Matrix, kinds: Mapping[str, FactorKind], kl: Mapping[str, float]) -> Iterator[Alarm]:
    signal = [name for name in matrix["x"] if kinds.get(name) == SIGNAL]
    in_x = knowledge(matrix, "x", signal)
    for part in kl:
        outside = knowledge(matrix, part, signal)
        if part != "x" and in_x and outside and outside.value >= max(MUCH, in_x.value + MORE):
            yield Alarm(
                "swapped",
                part,
                f"x and {part} have swapped: {part} knows {outside.value:.2f} of the signal, x only {in_x.value:.2f}, "
                "and x is all that the policy sees",
            )


def _leaking(matrix: Matrix, kinds: Mapping[str, FactorKind], kl: Mapping[str, float]) -> Iterator[Alarm]:
    for part in kl:
        meant = MEANT_FOR.get(part, ())
        noise = {name: best(cell) for name, cell in matrix["x"].items() if kinds.get(name) in meant}
        known = [name for name, of in noise.items() if of.value >= max(MUCH, of.baseline + ABOVE_BASELINE)]
        leak = best_known(matrix, "x", known)
        if leak:
            yield Alarm(
                "leaking",
                "x",
                f"noise is leaking into x: it knows {leak.value:.2f} of {leak.factor}, which {part} is there for",
            )


def _stranded(matrix: Matrix, signal: Sequence[str]) -> Estimate | None:
    if not signal:
        return None
    pairs = [(best(matrix["all"][name]), best(matrix["x"][name])) for name in signal]
    value = np.mean([max(0.0, everything.value - x.value) for everything, x in pairs])
    return _estimate(value, np.mean([np.maximum(0, everything.draws - x.draws) for everything, x in pairs], axis=0))


def _estimate(value: np.floating | float, draws: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
