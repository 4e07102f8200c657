"""The common part of all noise layers that draw random numbers: seeding and resuming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from denoised_mdp.envs.world import Layer, World, stream


class RandomLayer(Layer):
    """A `Layer` with a random generator.

    A layer names its `stream` of an environment's seed. A layer that draws something before the first reset overrides
    `_begin`; a layer that keeps something from episode to episode overrides `_kept` and `_keep`.
    """

    stream: ClassVar[str]

    def __init__(self, world: World, rng: np.random.Generator):
        super().__init__(world)
        self._rng = rng

    def seed(self, seed: np.random.SeedSequence) -> None:
        super().seed(seed)
        self._start_anew(seed)

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        super().seed_noise(seed)
        self._start_anew(seed)

    def state(self) -> dict[str, Any]:
        return {"world": super().state(), **self._kept(), "random": self._rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state["world"])
        self._keep(state)
        self._rng.bit_generator.state = state["random"]

    def _start_anew(self, seed: np.random.SeedSequence) -> None:
        """Seeds the generator in place, because parts of a layer may share it."""
        self._rng.bit_generator.state = np.random.default_rng(stream(seed, self.stream)).bit_generator.state
        self._begin()

    def _begin(self) -> None:
        """Draws the values that are drawn once, not in each episode."""

    def _kept(self) -> dict[str, Any]:
        """Returns, as plain data by name, what the next episode depends on besides the generator."""
        return {}

    def _keep(self, state: Mapping[str, Any]) -> None:
        """Restores what `_kept` returned."""
