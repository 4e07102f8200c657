"""RoboDesk's camera and its aim each go on a smooth random walk (Appendix B.1.1, code)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.smooth_walk import SmoothWalk
from denoised_mdp.envs.robodesk.stage import Stage
from denoised_mdp.envs.world import Layer, World, stream

_CAMERA, _AIM = 0.3, 0.65  # metres for a unit of the walk


class CameraWalk(Layer):
    """A step of both walks each control step, and a new start in each episode.

    Its factor `camera_walk` [6] is how far, in metres, the camera (3) and its aim (3) are from where they would be.
    """

    def __init__(self, world: World, stage: Stage, *, strength: float, rng: np.random.Generator):
        """Args: `strength`: 1 is the paper's."""
        super().__init__(world)
        self._stage, self._strength = stage, strength
        self._walks = SmoothWalk(3, rng), SmoothWalk(3, rng)
        self.factor_kinds["camera_walk"] = "neither"

    def reset(self) -> dm_env.TimeStep:
        for walk in self._walks:
            walk.restart()
        self._move()
        return super().reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        for walk in self._walks:
            walk.step()
        self._move()
        return super().step(action)

    def factors(self) -> dict[str, np.ndarray]:
        return {**super().factors(), "camera_walk": self._stage.camera_offset.reshape(-1).copy()}

    def seed(self, seed: np.random.SeedSequence) -> None:
        super().seed(seed)
        self._start_anew(seed)

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        super().seed_noise(seed)
        self._start_anew(seed)

    def state(self) -> dict[str, Any]:
        return {"world": super().state(), "random": self._walks[0].rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state["world"])
        self._walks[0].rng.bit_generator.state = state["random"]

    def _move(self) -> None:
        camera, aim = (walk.position for walk in self._walks)
        self._stage.camera_offset = self._strength * np.stack([_CAMERA * camera, _AIM * aim])

    def _start_anew(self, seed: np.random.SeedSequence) -> None:
        rng = np.random.default_rng(stream(seed, "camera_walk"))
        for walk in self._walks:
            walk.rng = rng
