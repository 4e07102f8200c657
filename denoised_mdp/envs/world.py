"""The inside of an environment: one simulator control step at a time, and a picture only when asked for one."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike, NDArray

# Whether the agent controls a factor, and whether the reward depends on it: the four kinds of the paper's Figure 1.
# A factor that affects the reward only together with a controlled factor (a target) is signal too, as in Table 2:
# Sec. 2.1 discards uncontrolled factors only where the reward is a sum.
FactorKind = Literal["controlled_rewarded", "controlled", "rewarded", "neither"]
FACTOR_KINDS: tuple[FactorKind, ...] = ("controlled_rewarded", "controlled", "rewarded", "neither")


# The numbers of the random streams; earlier runs depend on them. "world_noise" is for the uncontrolled factors inside
# a world. A layer with another name needs no entry here: its stream follows from its name.
STREAMS = {
    "world": 0,
    "video": 1,
    "camera": 2,
    "world_noise": 3,
    "television": 4,
    "buttons": 5,
    "lights": 6,
    "camera_walk": 7,
}


class Picture(NamedTuple):
    """The camera's picture, and a mask of the background that a distractor may replace."""

    rgb: NDArray[np.uint8]  # [H, W, 3]
    background: NDArray[np.bool_]  # [H, W]


class World(Protocol):
    """The dm_env protocol, plus pictures on demand, ground truth, and the random state.

    The parts of the noise are Layers around a World.
    """

    @property
    def factor_kinds(self) -> Mapping[str, FactorKind]:
        """The kind of every entry of `factors()`."""
        ...

    @property
    def factor_periods(self) -> Mapping[str, ArrayLike]:
        """The period of an entry of `factors()`: a number, or one per element; 0 where it does not wrap.

        The period of angles is 2 pi. Factors that are not named here do not wrap.
        """
        ...

    @property
    def episode_frames(self) -> int:
        """Control steps after which an episode is truncated."""
        ...

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode."""
        ...

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        """Takes one control step; `action` [A] lies within the bounds of `action_spec()`."""
        ...

    def action_spec(self) -> specs.BoundedArray:
        """Returns the shape and bounds of an action; all bounds are finite."""
        ...

    def render(self) -> Picture:
        """Returns the picture of the current state, and changes nothing."""
        ...

    def factors(self) -> dict[str, np.ndarray]:
        """Returns the ground truth of the current state by name.

        Names, dtypes and shapes are always the same, also before a reset.
        """
        ...

    def robot_mask(self) -> NDArray[np.bool_] | None:
        """Returns a mask [H, W] of the controlled and rewarded object, the robot, in the picture of the current state.

        Returns None if the mask is unknown, or there is no such object.
        """
        ...

    def seed(self, seed: np.random.SeedSequence) -> None:
        """Seeds the random state of this layer and of those inside it, from the next `reset` on.

        Each uses its own `stream` of `seed`, so that the same seed gives the same physics under any noise.
        """
        ...

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        """Seeds only the uncontrolled factors; call it after `seed`, whose physics stays as it is.

        Each layer uses the same stream of the seed as in `seed`.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Returns, as plain data, what the next episode depends on: the random state of this layer and those inside."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores the `state()` of a World built alike; the next `reset` is the one that would have followed there."""
        ...

    def close(self) -> None:
        """Frees its resources; the World cannot be used afterwards."""
        ...


class RandomWorld:
    """The random state of a World that draws from one generator, none of it known to be noise.

    The World sets `_rng`.
    """

    _rng: np.random.Generator

    def seed(self, seed: np.random.SeedSequence) -> None:
        self._rng = np.random.default_rng(stream(seed, "world"))

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        """Does nothing."""

    def state(self) -> dict[str, Any]:
        return {"random": self._rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["random"]


class Layer:
    """A World that wraps another one and forwards every call; noise layers override the methods that they change."""

    def __init__(self, world: World):
        self._world = world
        self.episode_frames = world.episode_frames
        self.factor_kinds: dict[str, FactorKind] = dict(world.factor_kinds)
        self.factor_periods: dict[str, ArrayLike] = dict(world.factor_periods)

    def reset(self) -> dm_env.TimeStep:
        return self._world.reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        return self._world.step(action)

    def action_spec(self) -> specs.BoundedArray:
        return self._world.action_spec()

    def render(self) -> Picture:
        return self._world.render()

    def factors(self) -> dict[str, np.ndarray]:
        return self._world.factors()

    def robot_mask(self) -> NDArray[np.bool_] | None:
        return self._world.robot_mask()

    def seed(self, seed: np.random.SeedSequence) -> None:
        self._world.seed(seed)

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        self._world.seed_noise(seed)

    def state(self) -> dict[str, Any]:
        return self._world.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._world.set_state(state)

    def close(self) -> None:
        self._world.close()


def stream(seed: np.random.SeedSequence, layer: str) -> np.random.SeedSequence:
    """Returns the random stream of one layer of an environment by its name, independent of the other layers."""
    number = STREAMS.get(layer, zlib.crc32(layer.encode()))
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))
