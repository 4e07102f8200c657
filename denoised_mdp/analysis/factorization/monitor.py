"""The factorization during training: linear probes on a few episodes that are recorded once."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from denoised_mdp.analysis.factorization.filtering import filter_all
from denoised_mdp.analysis.factorization.headline import Alarm
from denoised_mdp.analysis.factorization.measure import probe
from denoised_mdp.analysis.factorization.probes import LINEAR
from denoised_mdp.analysis.recordings import RANDOM, collect
from denoised_mdp.envs import AnyEnv
from denoised_mdp.model.protocol import WorldModel

ALARMS = ("collapsed", "swapped", "leaking")


class Monitor:
    """Measures a model again and again on the same episodes, a function of the seed; does not affect training."""

    def __init__(self, envs: Sequence[AnyEnv], *, repeats: int, seed: int):
        """Records `repeats` episodes of each random policy in each environment."""
        policies = {name: make(envs[0].action_size) for name, make in RANDOM.items()}
        self._recordings = collect(
            envs, policies, repeats=repeats, physics=0, noises=0, seed=seed, about={}, robot=False
        )
        self._key = jax.random.key(seed)

    def __call__(self, world_model: WorldModel) -> tuple[dict[str, float], list[Alarm]]:
        """Returns metrics by the names of `metrics.py`, except those without a factor in this world; and the alarms."""
        filtered = filter_all(world_model, self._recordings.episodes, self._key)
        factorization = probe(filtered, self._recordings, probes=[LINEAR])
        metrics = {
            f"analysis/{name}": of.value for name, of in factorization.headline._asdict().items() if of is not None
        }
        raised = {alarm.name for alarm in factorization.alarms}
        return metrics | {f"analysis/{name}": float(name in raised) for name in ALARMS}, factorization.alarms
