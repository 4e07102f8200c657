"""The inside of an environment: one simulator control step at a time, and a picture only when asked for one."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike, NDArray

# What the agent can do about a factor, and whether the reward depends on it: the four kinds of the paper's Figure 1.
# A factor that acts on the reward only together with what the agent controls (a target) is signal too, as in Table 2:
# Sec. 2.1 lets go of what is uncontrolled only where the reward is a sum.
FactorKind = Literal["controlled_rewarded", "controlled", "rewarded", "neither"]
FACTOR_KINDS: tuple[FactorKind, ...] = ("controlled_rewarded", "controlled", "rewarded", "neither")


# The random streams that runs made before use. "world_noise" is what a world holds that nobody controls. A layer of
# another name needs no entry here: its stream follows from its name.
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
    """What the camera sees, and which of it is background that a distractor may replace."""

    rgb: NDArray[np.uint8]  # [H, W, 3]
    background: NDArray[np.bool_]  # [H, W]


class World(Protocol):
    """The dm_env protocol, plus pictures on demand, ground truth, and the random state.

    Noise parts are Layers around a World.
    """

    @property
    def factor_kinds(self) -> Mapping[str, FactorKind]:
        """The kind of every entry of `factors()`."""
        ...

    @property
    def factor_periods(self) -> Mapping[str, ArrayLike]:
        """After how much an entry of `factors()` is the same again: a number, or one per element, 0 where it never is.

        Angles have 2 pi. What is not named here does not wrap.
        """
        ...

    @property
    def episode_frames(self) -> int:
        """Control steps after which an episode is cut."""
        ...

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode."""
        ...

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        """One control step; `action` [A] within the bounds of `action_spec()`."""
        ...

    def action_spec(self) -> specs.BoundedArray:
        """Shape and bounds of an action; all bounds are finite."""
        ...

    def render(self) -> Picture:
        """The picture of the current state. It changes nothing."""
        ...

    def factors(self) -> dict[str, np.ndarray]:
        """Ground truth of the current state, by name: always the same names, dtypes and shapes, also before a reset."""
        ...

    def robot_mask(self) -> NDArray[np.bool_] | None:
        """[H, W], where the picture of the current state shows what is controlled and rewarded: the robot.

        None if that is not known, or there is no such thing.
        """
        ...

    def seed(self, seed: np.random.SeedSequence) -> None:
        """Starts the random state of this layer and those inside it anew, from the next `reset` on.

        Each takes its own `stream` of `seed`, so that the same seed is the same physics under any noise.
        """
        ...

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        """As `seed`, but only of what is not controlled; call it after `seed`, whose physics stays as it is.

        Of each layer it is the same stream of the seed that `seed` takes.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Plain data that the next episode depends on: the random state of this layer and those inside it."""
        ...

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes up `state()` of an equally built World; the next `reset` is the one that would have followed."""
        ...

    def close(self) -> None:
        """Frees what it holds; it cannot be used afterwards."""
        ...


class Layer:
    """A World around another one, and the same as it: noise parts override what they change."""

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
    """The random stream of one layer of an environment, by its name, whichever others there are."""
    number = STREAMS.get(layer, zlib.crc32(layer.encode()))
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))
