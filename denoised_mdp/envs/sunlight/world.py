"""The reward is for sunlight in a room. Each of the paper's four kinds has one factor, a visible number in [0, 1].

curtain   controlled, rewarded      how far it is open; the action moves it
bird      controlled, not rewarded  how far it has flown up: the moving curtain scares it, then it comes back
weather   not controlled, rewarded  how clear the sky is; adds to the reward
plane     neither                   its position in the sky, from left to right
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike, NDArray

from denoised_mdp.envs.sunlight.picture import SIZE, Painter
from denoised_mdp.envs.world import FactorKind, Picture, stream

FACTORS: dict[str, FactorKind] = {
    "curtain": "controlled_rewarded",
    "bird": "controlled",
    "weather": "rewarded",
    "plane": "neither",
}

_SPEED = 0.1  # of the curtain, per step at full action
_DRAUGHT = 0.01  # standard deviation of the curtain's random movement
_CALM = 0.5  # share of _SPEED; a curtain moving slower than this does not scare the bird
_FLIGHT, _RETURN = 0.5, 0.15  # shares of its way that the bird flies in a step: fleeing, and returning
_FLUTTER = 0.02  # standard deviation
_WEATHER = 0.95  # correlation from step to step
_PLANE, _GUSTS = 0.04, 0.5  # step of the plane, and its standard deviation as a share of it
_TURN = 2.05  # standard deviations; the plane turns at a draw beyond this: one step in fifty
_GRAIN = 2**17  # length of a fixed noise array; each picture uses a slice of it, cheaper than new draws each step


class Sunlight:
    """The World. All random draws are made whatever is switched off, so the other factors do not change.

    Curtain and bird share one random generator; weather, plane and the noise of the picture share another.
    """

    def __init__(
        self,
        *,
        curtain: float,
        bird: float,
        weather: float,
        plane: float,
        curtain_reward: float,
        weather_reward: float,
        pixel_noise: float,
        episode_frames: int,
        seed: np.random.SeedSequence,
    ):
        """Makes the world with the contrasts and rewards of its factors.

        Args:
            curtain, bird, weather, plane: the contrast of each, in [0, 1]; with 0 it does not exist in the world.
            curtain_reward, weather_reward: reward per step for an open curtain, and for a clear sky.
            pixel_noise: standard deviation added to each pixel's channels, grey levels.
            episode_frames: steps per episode.
        """
        strengths = {"curtain": curtain, "bird": bird, "weather": weather, "plane": plane}
        self.factor_kinds: dict[str, FactorKind] = {name: kind for name, kind in FACTORS.items() if strengths[name]}
        if "bird" in self.factor_kinds and not curtain:
            self.factor_kinds["bird"] = "neither"  # nothing scares it
        self.factor_periods: dict[str, ArrayLike] = {}
        self.episode_frames = episode_frames
        self._painter = Painter(**strengths)
        self._curtain_there = float(curtain > 0)
        self._rewards = (curtain_reward * self._curtain_there, weather_reward * (weather > 0))
        self.seed(seed)
        grain = np.random.default_rng(0).standard_normal(_GRAIN if pixel_noise else 0, np.float32)
        self._grain = grain * np.float32(pixel_noise)
        self._no_background = np.zeros((SIZE, SIZE), np.bool_)
        self._t = 0
        self._curtain = self._bird = self._pressure = self._plane = 0.5
        self._heading, self._cut = 1, 0.0

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode with random values of all factors but the bird, which sits on its post."""
        self._t, self._bird = 0, 0.0
        self._curtain = self._rng.random()
        self._plane, heading, self._cut = self._noise_rng.random(3).tolist()
        self._pressure = float(self._noise_rng.standard_normal())
        self._heading = 1 if heading < 0.5 else -1
        return dm_env.restart(None)

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        draught, flutter = self._rng.standard_normal(2).tolist()
        pressure, gust, turn = self._noise_rng.standard_normal(3).tolist()
        self._cut = self._noise_rng.random()
        before = self._curtain
        self._curtain = _unit(before + _SPEED * float(action[0]) + _DRAUGHT * draught)
        fright = _unit((abs(self._curtain - before) / _SPEED - _CALM) / (1 - _CALM)) * self._curtain_there
        share = _FLIGHT if fright > self._bird else _RETURN
        self._bird = _unit(self._bird + share * (fright - self._bird) + _FLUTTER * flutter)
        self._pressure = _WEATHER * self._pressure + (1 - _WEATHER**2) ** 0.5 * pressure
        if turn > _TURN or not 0 < self._plane + self._heading * _PLANE < 1:
            self._heading = -self._heading
        self._plane = _unit(self._plane + self._heading * _PLANE * (1 + _GUSTS * gust))
        self._t += 1
        reward = self._rewards[0] * self._curtain + self._rewards[1] * self._weather
        if self._t == self.episode_frames:
            return dm_env.truncation(reward, None)
        return dm_env.transition(reward, None)

    @property
    def _weather(self) -> float:
        """Uniform in [0, 1] over time: the normal distribution function of a stationary normal process."""
        return (1 + math.erf(self._pressure / 2**0.5)) / 2

    def action_spec(self) -> specs.BoundedArray:
        """Returns the bounds of the one action: 1 opens the curtain at full speed, -1 closes it."""
        return specs.BoundedArray((1,), np.float64, -1.0, 1.0)

    def render(self) -> Picture:
        canvas = self._painter.paint(
            curtain=self._curtain, bird=self._bird, weather=self._weather, plane=self._plane, heading=self._heading
        )
        if self._grain.size:
            start = int(self._cut * (self._grain.size - canvas.size))
            canvas += self._grain[start : start + canvas.size].reshape(canvas.shape)
            np.clip(canvas, 0, 255, out=canvas)
        return Picture(canvas.astype(np.uint8), self._no_background)

    def factors(self) -> dict[str, np.ndarray]:
        values = {"curtain": self._curtain, "bird": self._bird, "weather": self._weather, "plane": self._plane}
        return {name: np.array(values[name]) for name in self.factor_kinds}

    def robot_mask(self) -> NDArray[np.bool_] | None:
        """Returns a mask of the curtain; the bird is controlled too, but not rewarded."""
        return self._painter.curtain_mask(self._curtain) if self._curtain_there else None

    def seed(self, seed: np.random.SeedSequence) -> None:
        self._rng = np.random.default_rng(stream(seed, "world"))
        self.seed_noise(seed)

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        self._noise_rng = np.random.default_rng(stream(seed, "world_noise"))

    def state(self) -> dict[str, Any]:
        return {"random": self._rng.bit_generator.state, "noise": self._noise_rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["random"]
        self._noise_rng.bit_generator.state = state["noise"]

    def close(self) -> None:
        pass


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
