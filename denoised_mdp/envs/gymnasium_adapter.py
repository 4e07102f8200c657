"""Adapts our environments to code that expects gymnasium's interface."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from denoised_mdp.envs.env import Env, Step


class GymnasiumEnv(gymnasium.Env[NDArray[np.uint8], NDArray[np.float32]]):
    """An Env as a gymnasium.Env. The time limit truncates an episode; the end of all reward terminates it."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  gymnasium declares it so

    def __init__(self, env: Env):
        self._env = env
        self._step: Step | None = None
        self.render_mode = "rgb_array"
        self.observation_space = gymnasium.spaces.Box(0, 255, env.observation_shape, np.uint8)
        self.action_space = gymnasium.spaces.Box(-1, 1, (env.action_size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Starts an episode; a `seed` makes it and the later ones reproducible. There are no `options`."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.seed(seed)
        self._step = self._env.reset()
        return self._step.observation, self._step.info

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Takes a step and returns observation, reward, terminated, truncated, info."""
        self._step = step = self._env.step(action)
        return step.observation, step.reward, step.is_terminal, step.is_last and not step.is_terminal, step.info

    def render(self) -> NDArray[np.uint8]:
        """Returns the current observation.

        Raises:
            RuntimeError: before the first reset.
        """
        if self._step is None:
            raise RuntimeError("nothing to render: call reset() first")
        return self._step.observation

    def close(self) -> None:
        self._env.close()
