"""Environments of yours: any dm_env or gymnasium environment with pictures, as a World.

How to add one: docs/custom_environment.md.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import dm_env
import gymnasium
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from denoised_mdp.envs.world import FACTOR_KINDS, FactorKind, Picture, stream
from denoised_mdp.errors import UserError, one_line

PIXELS = "pixels"  # the picture's name in observations of several parts, as dm_control and gymnasium call it


class Custom:
    """The World around an environment.

    Every reset seeds `random`, or a gymnasium environment through its reset, from a generator of this World: so an
    episode depends on its seed and its actions alone, and can be gone on with.
    """

    def __init__(
        self,
        constructor: str,
        arguments: Mapping[str, Any],
        *,
        image_size: int,
        episode_frames: int,
        seed: np.random.SeedSequence,
    ):
        """
        Args:
            constructor, arguments: as in `check`; the constructor's first argument is a `numpy.random.RandomState`.
            image_size: H = W to which pictures are scaled.
            episode_frames: steps after which an episode is cut, where the environment does not end it before.

        Raises:
            UserError: what was made is neither a dm_env.Environment nor a gymnasium.Env, or has other observations or
                actions than are needed.
        """
        self._name = f"env.constructor={constructor}"
        self._rng = np.random.default_rng(seed)
        self._random = np.random.RandomState(0)
        made = load(constructor)(self._random, **arguments)
        self._env: Any  # has dm_env's methods
        self._truth: Any  # has the factors, if there are any
        if isinstance(made, gymnasium.Env):
            self._env, self._truth = _Gymnasium(made, self._random), made.unwrapped
        elif isinstance(made, dm_env.Environment):
            self._env = self._truth = made
        else:
            raise UserError(f"{self._name} made a {type(made).__name__}, no dm_env.Environment and no gymnasium.Env")
        self._size = image_size
        self.episode_frames = episode_frames
        self._action_spec = self._actions()
        self._observation = self._env.reset().observation  # lest the first one wait for `reset`
        self._t = 0
        self.render()  # finds out whether there is a picture
        self.factor_kinds: dict[str, FactorKind] = dict(getattr(self._truth, "factor_kinds", {}))
        if wrong := [f"{name}={kind}" for name, kind in self.factor_kinds.items() if kind not in FACTOR_KINDS]:
            raise UserError(f"{self._name}: its factor_kinds {', '.join(wrong)} are none of {', '.join(FACTOR_KINDS)}")
        self.factor_periods: dict[str, ArrayLike] = dict(getattr(self._truth, "factor_periods", {}))
        if unknown := self.factor_periods.keys() - self.factor_kinds.keys():
            raise UserError(f"{self._name}: its factor_periods {', '.join(sorted(unknown))} are not in factor_kinds")

    def reset(self) -> dm_env.TimeStep:
        self._random.seed(int(self._rng.integers(2**32)))
        self._t = 0
        return self._note(self._env.reset())

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        self._t += 1
        timestep = self._env.step(action.astype(self._action_spec.dtype))
        if self._t == self.episode_frames and not timestep.last():
            timestep = timestep._replace(step_type=dm_env.StepType.LAST)  # its discount stays: time was up, no more
        return self._note(timestep)

    def action_spec(self) -> specs.BoundedArray:
        return self._action_spec

    def render(self) -> Picture:
        """The picture scaled to a square; none of it is background, as nobody knows what is."""
        observation = self._observation
        picture = np.array(observation.get(PIXELS) if isinstance(observation, Mapping) else observation)  # a copy
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(
                f"{self._name}: its observation should be a picture, uint8 [height, width, 3], or have one named "
                f"{PIXELS}; got {picture.dtype} {list(picture.shape)}"
            )
        if picture.shape[:2] != (self._size, self._size):
            square = (self._size, self._size)
            picture = np.asarray(Image.fromarray(picture).resize(square, Image.Resampling.BILINEAR))
        return Picture(picture, np.zeros((self._size, self._size), np.bool_))

    def factors(self) -> dict[str, np.ndarray]:
        if not self.factor_kinds:
            return {}
        return {name: np.array(value) for name, value in self._truth.factors().items()}

    def robot_mask(self) -> NDArray[np.bool_] | None:
        return None

    def seed(self, seed: np.random.SeedSequence) -> None:
        self._rng = np.random.default_rng(stream(seed, "world"))

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        """Nothing: which of its draws are noise is not known."""

    def state(self) -> dict[str, Any]:
        return {"random": self._rng.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._rng.bit_generator.state = state["random"]

    def close(self) -> None:
        self._env.close()

    def _note(self, timestep: dm_env.TimeStep) -> dm_env.TimeStep:
        self._observation = timestep.observation
        return timestep

    def _actions(self) -> specs.BoundedArray:
        spec = self._env.action_spec()
        fine = isinstance(spec, specs.BoundedArray) and len(spec.shape) == 1 and np.issubdtype(spec.dtype, np.floating)
        if not fine or not np.isfinite([spec.minimum, spec.maximum]).all():
            raise UserError(f"{self._name}: its actions should be a vector of numbers with finite bounds, not {spec}")
        low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
        return specs.BoundedArray(spec.shape, spec.dtype, low, high)


class _Gymnasium:
    """A gymnasium environment with the methods of dm_env that Custom needs."""

    def __init__(self, env: gymnasium.Env, random: np.random.RandomState):
        self._env, self._random = env, random
        space = env.observation_space
        self._rendered = env.render_mode == "rgb_array" and not (
            (isinstance(space, gymnasium.spaces.Dict) and PIXELS in space.spaces) or len(space.shape or ()) == 3
        )

    def reset(self) -> dm_env.TimeStep:
        observation, _ = self._env.reset(seed=int(self._random.randint(2**31 - 1)))
        return dm_env.restart(self._seen(observation))

    def step(self, action: NDArray[Any]) -> dm_env.TimeStep:
        observation, reward, terminated, truncated, _ = self._env.step(action)
        seen = self._seen(observation)
        if terminated:
            return dm_env.termination(float(reward), seen)
        return (dm_env.truncation if truncated else dm_env.transition)(float(reward), seen)

    def action_spec(self) -> Any:
        space = self._env.action_space
        if not isinstance(space, gymnasium.spaces.Box):
            return space
        return specs.BoundedArray(space.shape, space.dtype, space.low, space.high)

    def close(self) -> None:
        self._env.close()

    def _seen(self, observation: Any) -> Any:
        return self._env.render() if self._rendered else observation


def check(constructor: str, arguments: Mapping[str, Any]) -> None:
    """Imports a constructor, and calls nothing.

    Args:
        constructor: `package.module:function`, or `path/to/file.py:function`.
        arguments: by name, what it gets beside its first argument, the random state.

    Raises:
        UserError: there is no such function, or it does not take these arguments.
    """
    function = load(constructor)
    try:
        inspect.signature(function).bind(np.random.RandomState(0), **arguments)
    except TypeError as error:
        raise UserError(f"env.constructor={constructor} does not take random and env.arguments: {error}") from error


@functools.cache
def load(constructor: str) -> Callable[..., Any]:
    """The function that a constructor's name stands for. Raises UserError: there is none."""
    place, _, name = constructor.rpartition(":")
    if not place or not name:
        raise UserError(f"env.constructor={constructor} should be package.module:function or path/to/file.py:function")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, OSError) as error:
        raise UserError(f"env.constructor={constructor} cannot be imported: {one_line(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"env.constructor={constructor}: {place} has no function {name}")
    return function


def _file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # of a name that ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
