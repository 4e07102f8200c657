"""All measures of one model on one set of recordings, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from denoised_mdp.analysis.factorization.clean_pairs import clean_pairs
from denoised_mdp.analysis.factorization.filtering import episode_of_row, filter_all, mean_kl, part_features
from denoised_mdp.analysis.factorization.headline import (
    SIGNAL,
    Alarm,
    Estimate,
    Headline,
    alarms,
    best_known,
    headline,
    knowledge,
)
from denoised_mdp.analysis.factorization.influence import action_gain, controllability, random_actions, reward_relevance
from denoised_mdp.analysis.factorization.pictures import reconstruction
from denoised_mdp.analysis.factorization.probes import LINEAR, NONLINEAR, Matrix, leakage_matrix
from denoised_mdp.analysis.factorization.standard import standard_measures
from denoised_mdp.analysis.factorization.targets import Target, targets
from denoised_mdp.analysis.posterior import Filtered
from denoised_mdp.analysis.recordings import Recordings
from denoised_mdp.envs import FACTOR_KINDS, FactorKind
from denoised_mdp.model.protocol import WorldModel


class Factorization(NamedTuple):
    """The results of the probes."""

    matrix: Matrix
    left_out: dict[str, str]  # factors that cannot be probed, each with the reason
    kl: dict[str, float]  # of each part of the model, nats per agent step
    headline: Headline
    alarms: list[Alarm]


def probed(recordings: Recordings) -> tuple[list[Target], dict[str, str]]:
    """Returns the probed factors of some recordings, in the rows of all episodes, and the reasons against others."""
    episodes = recordings.episodes
    factors = {name: np.concatenate([recording.factors[name] for recording in episodes]) for name in recordings.kinds}
    reward = np.concatenate([recording.reward for recording in episodes])
    return targets(factors, recordings.kinds, recordings.periods, reward, episode_of_row(episodes))


def probe(
    filtered: Sequence[Filtered], recordings: Recordings, *, probes: Sequence[str] = (LINEAR, NONLINEAR)
) -> Factorization:
    """Returns the leakage matrix of a model's latents for some recordings, and the conclusions from it."""
    episode, kinds = episode_of_row(recordings.episodes), recordings.kinds
    probed_targets, left_out = probed(recordings)
    matrix = leakage_matrix(part_features(filtered), probed_targets, episode, recordings.repeats, kinds=probes)
    kl = mean_kl(filtered)
    return Factorization(matrix, left_out, kl, headline(matrix, kinds), alarms(matrix, kinds, kl))


def measure(
    world_model: WorldModel, recordings: Recordings, key: jax.Array, *, probes: Sequence[str] = (LINEAR, NONLINEAR)
) -> dict[str, Any]:
    """Returns all measures as nested plain data without NaN.

    A measure is None or absent where the world or the model lacks its subject.
    """
    filter_key, pair_key, action_key = jax.random.split(key, 3)
    episodes = recordings.episodes
    filtered = filter_all(world_model, episodes, filter_key)
    factorization = probe(filtered, recordings, probes=probes)
    s = jax.tree.map(lambda *rows: np.concatenate(rows), *(f.s for f in filtered))
    action = random_actions(action_key, len(s.x.state), episodes[0].action.shape[-1])
    control = controllability(world_model, s, action)
    reward = reward_relevance(world_model, filtered, episodes)
    gains = action_gain(filtered, episodes, recordings.repeats)
    movements = clean_pairs(world_model, recordings.pairs, pair_key)
    return {
        "headline": {name: value and _plain(value) for name, value in factorization.headline._asdict().items()},
        "alarms": [alarm._asdict() for alarm in factorization.alarms],
        "kinds": _by_kind(factorization.matrix, recordings.kinds),
        "matrix": _matrix(factorization.matrix, recordings.kinds),
        "left_out": factorization.left_out,
        "parts": {
            name: {
                "kl": nats,
                "controllability": float(getattr(control, name)),
                "action_gain": gains[name],
                "reward_explained": reward.get(name),
            }
            for name, nats in factorization.kl.items()
        },
        "reward_explained_by_all": reward["all"],
        "clean_pairs": {name: {**m._asdict(), "noise_share": _plain(m.noise_share)} for name, m in movements.items()},
        "reconstruction": reconstruction(world_model, filtered, episodes),
        "standard": standard_measures(
            part_features(filtered)["all"],
            [target for target in probed(recordings)[0] if target.kind is not None],  # the reward is no factor
            episode_of_row(episodes),
            recordings.repeats,
        ),
        "episodes": len(episodes),
        "rows": len(s.x.state),
        "recordings": recordings.about,
    }


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {name: value for name, value in estimate._asdict().items() if value is not None}


def _by_kind(matrix: Matrix, kinds: Mapping[str, FactorKind]) -> dict[str, dict[str, Any]]:
    """Returns, for each probed kind of information and each part, the mean score of signal or the best of noise."""
    table: dict[str, dict[str, Any]] = {}
    for kind in FACTOR_KINDS:
        names = [name for name in matrix["x"] if kinds.get(name) == kind]
        summarise = knowledge if kind == SIGNAL else best_known
        estimates = {part: summarise(matrix, part, names) for part in matrix}
        if names:
            table[kind] = {part: _plain(estimate) for part, estimate in estimates.items() if estimate}
    return table


def _matrix(matrix: Matrix, kinds: Mapping[str, FactorKind]) -> dict[str, Any]:
    """Returns factor -> its kind (None: the reward), the measure, and part -> probe -> numbers."""
    table: dict[str, Any] = {}
    for part, cells in matrix.items():
        for name, cell in cells.items():
            row = table.setdefault(name, {"kind": kinds.get(name)})
            for kind, score in cell.items():
                row["measure"] = "R2" if score.chance is None else "accuracy"
                if score.chance is not None:
                    row["chance"] = score.chance
                row.setdefault(part, {})[kind] = {
                    "score": score.value,
                    "low": score.low,
                    "high": score.high,
                    "baseline": score.baseline,
                    "elements": score.elements,
                }
    return table
