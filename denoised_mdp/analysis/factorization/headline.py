"""The leakage matrix as three numbers, and alarms in words.

Signal is controlled and rewarded; the other three kinds of information are noise (the paper's Fig. 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from denoised_mdp.analysis.factorization.probes import Matrix, best
from denoised_mdp.envs import FactorKind

SIGNAL: FactorKind = "controlled_rewarded"
# The kinds for which the parts other than x exist (Fig. 2). Without z, only x can hold controlled, unrewarded factors.
MEANT_FOR: dict[str, tuple[FactorKind, ...]] = {"y": ("rewarded", "neither"), "z": ("controlled",)}

# The alarm's limits: our choice, wide enough that a probe's luck does not cross them.
NO_NATS = 0.5  # nats per step; below it a part hardly differs from its prior
ABOVE_BASELINE = 0.1  # a probe whose score exceeds its baseline by less reads nothing
MUCH = 0.3  # from this score on, a factor counts as present in a part
MORE = 0.1  # parts are swapped if the signal's score from y or z exceeds that from x by this


class Estimate(NamedTuple):
    """A number with its 95% confidence interval over episodes."""

    value: float
    low: float
    high: float
    factor: str | None = None  # the factor with this score, if there is one


class Headline(NamedTuple):
    """The three numbers; None if the world has no such factor."""

    signal_in_x: Estimate | None  # signal kept: the mean score of its factors from x
    noise_in_x: Estimate | None  # noise leaked: the score of the noise factor that x surely predicts best
    signal_outside_x: Estimate | None  # signal stranded: its score from all parts together, minus that from x


class Alarm(NamedTuple):
    """A reason not to trust a return."""

    name: str  # collapsed | swapped | leaking
    part: str
    text: str


def headline(matrix: Matrix, kinds: Mapping[str, FactorKind]) -> Headline:
    """Returns the three numbers, each factor by its better probe.

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
    """Returns the mean score of some factors from a part; None without factors."""
    if not factors:
        return None
    scores = [best(matrix[part][name]) for name in factors]
    return _estimate(np.mean([score.value for score in scores]), np.mean([score.draws for score in scores], axis=0))


def best_known(matrix: Matrix, part: str, factors: Sequence[str]) -> Estimate | None:
    """Returns the factor with the highest lower end of the interval of its score from a part; None without factors.

    It is not a mean: in a mean, a factor that no picture shows would hide the leak of another one.
    """
    if not factors:
        return None
    name = max(factors, key=lambda name: (best(matrix[part][name]).low, best(matrix[part][name]).value))
    score = best(matrix[part][name])
    return Estimate(score.value, score.low, score.high, name)


def alarms(matrix: Matrix, kinds: Mapping[str, FactorKind], kl: Mapping[str, float]) -> list[Alarm]:
    """Returns the faults of a factorization, in words; empty if there are none.

    kl: of each part of the model, nats per step.
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
                f"{part} has collapsed: it carries {nats:.2f} nats per step, and no probe reads anything from it",
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
                f"x and {part} have swapped: the signal's score is {outside.value:.2f} from {part}, but only "
                f"{in_x.value:.2f} from x, and the policy sees only x",
            )


def _leaking(matrix: Matrix, kinds: Mapping[str, FactorKind], kl: Mapping[str, float]) -> Iterator[Alarm]:
    for part in kl:
        meant = MEANT_FOR.get(part, ())
        noise = {name: best(cell) for name, cell in matrix["x"].items() if kinds.get(name) in meant}
        present = [name for name, score in noise.items() if score.value >= max(MUCH, score.baseline + ABOVE_BASELINE)]
        leak = best_known(matrix, "x", present)
        if leak:
            yield Alarm(
                "leaking",
                "x",
                f"noise is leaking into x: the score of {leak.factor}, a factor for {part}, is {leak.value:.2f} from x",
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
