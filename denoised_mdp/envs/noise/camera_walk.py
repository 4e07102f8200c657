"""RoboDesk's camera and its aim each follow a smooth random walk (Appendix B.1.1, code)."""

from __future__ import annotations

import dm_env
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.noise.random_layer import RandomLayer
from denoised_mdp.envs.noise.smooth_walk import SmoothWalk
from denoised_mdp.envs.robodesk.stage import Stage
from denoised_mdp.envs.world import World

_CAMERA, _AIM = 0.3, 0.65  # metres for one unit of the walk


class CameraWalk(RandomLayer):
    """Takes a step of both walks at each control step, and restarts them in each episode.

    Its factor `camera_walk` [6] is the offset, in metres, of the camera (3) and of its aim (3).
    """

    stream = "camera_walk"

    def __init__(self, world: World, stage: Stage, *, strength: float, rng: np.random.Generator):
        """Args: `strength`: 1 is the paper's."""
        super().__init__(world, rng)
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

    def _move(self) -> None:
        camera, aim = (walk.position for walk in self._walks)
        self._stage.camera_offset = self._strength * np.stack([_CAMERA * camera, _AIM * aim])
