"""The outside of an environment: the agent's view of a World, one agent step at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import dm_env
import numpy as np
from numpy.typing import ArrayLike, NDArray

from denoised_mdp.envs.world import World


class Step(NamedTuple):
    """One agent step."""

    observation: NDArray[np.uint8]  # [H, W, 3]
    reward: float  # summed over the action repeat; 0 at a reset
    is_first: bool
    is_last: bool  # the episode ends here, for whatever reason
    is_terminal: bool  # it ends because no more reward is possible (discount 0), not because of the time limit
    info: dict[str, Any]  # "factors": the ground truth by name; `Env.factor_kinds` has their kinds


class Env:
    """Action repeat, action scaling, one picture per agent step, and an exact way to resume.

    Attributes:
        action_size: A; actions are [A] in [-1, 1], and clipped to it.
        observation_shape: (H, W, 3).
        action_repeat: control steps per agent step.
        episode_frames: control steps after which an episode is truncated.
        factor_kinds: the kind of every factor in `Step.info["factors"]`.
        factor_specs: the dtype and shape of each, as `Replay` takes them.
        factor_periods: the periods of the factors that wrap, such as angles (`World.factor_periods`).
    """

    def __init__(self, world: World, *, image_size: int, action_repeat: int):
        self._world = world
        spec = world.action_spec()
        self._low, self._high = spec.minimum, spec.maximum
        self.action_size = int(spec.shape[0])
        self.observation_shape = (image_size, image_size, 3)
        self.action_repeat = action_repeat
        self.episode_frames = world.episode_frames
        self.factor_kinds = dict(world.factor_kinds)
        self.factor_specs = {name: (value.dtype, value.shape) for name, value in world.factors().items()}
        self.factor_periods = dict(world.factor_periods)
        self._start: dict[str, Any] | None = None  # the world's state just before the last reset
        self._actions: list[list[float]] = []  # since then
        self._running = False

    def seed(self, seed: int, *, noise: int | None = None) -> None:
        """Makes the episodes from the next `reset` on a function of `seed` (and of the videos, which stay the same).

        noise: a separate seed for the uncontrolled factors. Two episodes with the same `seed` and the same actions then
            have the same physics under different noise, step by step.
        """
        self._world.seed(np.random.SeedSequence(seed))
        if noise is not None:
            self._world.seed_noise(np.random.SeedSequence(noise))

    def reset(self) -> Step:
        """Starts an episode."""
        self._start, self._actions = self._world.state(), []
        return self._look(self._world.reset(), 0.0)

    def step(self, action: ArrayLike) -> Step:
        """Takes one agent step with `action` [A].

        Raises:
            ValueError: the action has another shape, or is not finite.
            RuntimeError: the episode is over, or none has begun.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (self.action_size,) or not np.isfinite(action).all():
            raise ValueError(f"an action is {self.action_size} finite numbers, not {action.tolist()}")
        if not self._running:
            raise RuntimeError("the episode is over: call reset() first")
        return self._look(*self._advance(action))

    def robot_mask(self) -> NDArray[np.bool_] | None:
        """Returns a mask [H, W] of the robot in the current observation; None where `World.robot_mask` returns None."""
        return self._world.robot_mask()

    def state(self) -> dict[str, Any]:
        """Returns plain data (numbers, strings, lists, dicts: it survives JSON) from which `restore` continues.

        It holds the random state before the last reset and the actions since then, so it is small and exact.
        """
        return {"start": self._start, "actions": [list(action) for action in self._actions]}

    def restore(self, state: Mapping[str, Any]) -> Step | None:
        """Restores the `state()` of an Env built alike, and returns the step that was current then.

        The episode is replayed; only its last picture is rendered. Returns None if no episode had begun.
        """
        if state["start"] is None:
            self._start, self._actions, self._running = None, [], False
            return None
        self._world.set_state(state["start"])
        self._start, self._actions = self._world.state(), []
        timestep, reward = self._world.reset(), 0.0
        for action in state["actions"]:
            timestep, reward = self._advance(np.asarray(action, np.float64))
        return self._look(timestep, reward)

    def close(self) -> None:
        """Frees the simulator and the renderer."""
        self._running = False
        self._world.close()

    def _advance(self, action: NDArray[np.float64]) -> tuple[dm_env.TimeStep, float]:
        """Repeats the action, and stops where the episode ends inside the repeat (Appendix B.1.1)."""
        self._actions.append(action.tolist())
        scaled = self._low + (np.clip(action, -1, 1) + 1) / 2 * (self._high - self._low)
        timestep = self._world.step(scaled)
        reward = timestep.reward or 0.0
        for _ in range(self.action_repeat - 1):
            if timestep.last():
                break
            timestep = self._world.step(scaled)
            reward += timestep.reward or 0.0
        return timestep, float(reward)

    def _look(self, timestep: dm_env.TimeStep, reward: float) -> Step:
        self._running = not timestep.last()
        return Step(
            observation=self._world.render().rgb,
            reward=reward,
            is_first=timestep.first(),
            is_last=timestep.last(),
            is_terminal=timestep.last() and timestep.discount == 0,
            info={"factors": self._world.factors()},
        )
