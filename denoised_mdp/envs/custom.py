"""Custom environments: any dm_env or gymnasium environment with pictures, as a World.

docs/custom_environment.md shows how to add one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import zlib
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

from denoised_mdp.envs.world import FACTOR_KINDS, FactorKind, Picture, RandomWorld
from denoised_mdp.errors import UserError, one_line, with_place

PIXELS = "pixels"  # the picture's name in observations of several parts, in dm_control and in gymnasium


class Custom(RandomWorld):
    """The World around an environment.

    Every reset seeds `random`, or a gymnasium environment through its reset, from a generator of this World: so an
    episode depends on its seed and its actions alone, and can be resumed.
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
        """Constructs the environment.

        Args:
            constructor, arguments: as in `check`; the constructor's first argument is a `numpy.random.RandomState`.
            image_size: H = W of the scaled pictures.
            episode_frames: steps after which an episode is truncated, if the environment does not end it before.

        Raises:
            UserError: the constructor made neither a dm_env.Environment nor a gymnasium.Env, or the environment has
                unsuitable observations or actions.
        """
        self._name = f"env.constructor={constructor}"
        self._rng = np.random.default_rng(seed)
        self._random = np.random.RandomState(0)
        made = load(constructor)(self._random, **arguments)
        self._env: Any  # has dm_env's methods
        self._truth: Any  # has the factors, if there are any
        if isinstance(made, gymnasium.Env):
            self._env, self._truth = _Gymnasium(made, self._random, self._name), made.unwrapped
        elif isinstance(made, dm_env.Environment):
            self._env = self._truth = made
        else:
            raise UserError(f"{self._name} made a {type(made).__name__}, no dm_env.Environment and no gymnasium.Env")
        self._size = image_size
        self.episode_frames = episode_frames
        self._action_spec = self._actions()
        self._t = 0
        self._observation = self._checked(self._call(self._env.reset)).observation  # `reset` needs one
        self.render()  # checks that there is a picture
        self.factor_kinds: dict[str, FactorKind] = dict(getattr(self._truth, "factor_kinds", {}))
        if wrong := [f"{name}={kind}" for name, kind in self.factor_kinds.items() if kind not in FACTOR_KINDS]:
            raise UserError(f"{self._name}: its factor_kinds {', '.join(wrong)} are none of {', '.join(FACTOR_KINDS)}")
        self.factor_periods: dict[str, ArrayLike] = dict(getattr(self._truth, "factor_periods", {}))
        if unknown := self.factor_periods.keys() - self.factor_kinds.keys():
            raise UserError(f"{self._name}: its factor_periods {', '.join(sorted(unknown))} are not in factor_kinds")

    def reset(self) -> dm_env.TimeStep:
        self._random.seed(int(self._rng.integers(2**32)))
        self._t = 0
        return self._note(self._checked(self._call(self._env.reset)))

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        """Takes a step; clips the action again, as rounding to the environment's type could exceed its bounds."""
        self._t += 1
        spec = self._action_spec
        action = np.clip(action.astype(spec.dtype), spec.minimum, spec.maximum)
        timestep = self._checked(self._call(self._env.step, action))
        if self._t == self.episode_frames and not timestep.last():
            timestep = timestep._replace(step_type=dm_env.StepType.LAST)  # its discount stays: a time limit ended it
        return self._note(timestep)

    def action_spec(self) -> specs.BoundedArray:
        return self._action_spec

    def render(self) -> Picture:
        """Returns the picture scaled to a square; no pixel counts as background, as the background is unknown."""
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
        found = {name: np.array(value) for name, value in self._call(self._truth.factors).items()}
        if found.keys() != self.factor_kinds.keys():
            raise UserError(
                f"{self._name}: its factors() has {', '.join(found) or 'nothing'}, its factor_kinds "
                f"{', '.join(self.factor_kinds)}"
            )
        for name, value in found.items():
            if value.dtype.kind not in "fiub" or not np.isfinite(value).all():
                raise UserError(
                    f"{self._name}: {self._place()}: its factor {name} is {_short(value)}, no finite number"
                )
        return found

    def robot_mask(self) -> NDArray[np.bool_] | None:
        return None

    def close(self) -> None:
        self._env.close()

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Returns the answer of the environment's method; raises UserError for an error of its own."""
        try:
            return method(*arguments)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{self._name}: {self._place()}: {with_place(error)}") from error

    def _checked(self, timestep: Any) -> dm_env.TimeStep:
        """Returns the environment's time step if a run can use it; raises UserError otherwise."""
        if not isinstance(timestep, dm_env.TimeStep):
            raise UserError(f"{self._name}: {self._place()} returned {_short(timestep)}, which is no dm_env.TimeStep")
        if timestep.first() != (self._t == 0):
            raise UserError(f"{self._name}: {self._place()} returned a step of type {timestep.step_type}")
        if self._t and not _is_number(timestep.reward):
            earned = _short(timestep.reward)
            raise UserError(f"{self._name}: {self._place()} earned {earned}: a reward should be one finite number")
        if timestep.discount is not None and not _is_number(timestep.discount):
            discount = _short(timestep.discount)
            raise UserError(f"{self._name}: {self._place()} has the discount {discount}, which is no finite number")
        return timestep

    def _place(self) -> str:
        return f"step {self._t} of an episode" if self._t else "its reset"

    def _note(self, timestep: dm_env.TimeStep) -> dm_env.TimeStep:
        self._observation = timestep.observation
        return timestep

    def _actions(self) -> specs.BoundedArray:
        spec = self._env.action_spec()
        fine = isinstance(spec, specs.BoundedArray) and len(spec.shape) == 1 and np.issubdtype(spec.dtype, np.floating)
        if not fine or not np.isfinite([spec.minimum, spec.maximum]).all():
            raise UserError(f"{self._name}: its actions should be a vector of numbers with finite bounds, not {spec}")
        low, high = (np.broadcast_to(bound, spec.shape).astype(spec.dtype) for bound in (spec.minimum, spec.maximum))
        with np.errstate(over="ignore"):
            if not np.isfinite(high - low).all() or (low > high).any():
                raise UserError(f"{self._name}: its actions cannot be scaled to the bounds of {spec}")
        return specs.BoundedArray(spec.shape, spec.dtype, low, high)


class _Gymnasium:
    """A gymnasium environment with the dm_env methods that Custom calls."""

    def __init__(self, env: gymnasium.Env, random: np.random.RandomState, name: str):
        self._env, self._random, self._name = env, random, name
        space = env.observation_space
        self._rendered = env.render_mode == "rgb_array" and not (
            (isinstance(space, gymnasium.spaces.Dict) and PIXELS in space.spaces) or len(space.shape or ()) == 3
        )

    def reset(self) -> dm_env.TimeStep:
        answer: Any = self._env.reset(seed=int(self._random.randint(2**31 - 1)))
        observation, _ = self._parts("reset", answer, ("observation", "info"))
        return dm_env.restart(self._seen(observation))

    def step(self, action: NDArray[Any]) -> dm_env.TimeStep:
        answer: Any = self._env.step(action)
        parts = ("observation", "reward", "terminated", "truncated", "info")
        observation, reward, terminated, truncated, _ = self._parts("step", answer, parts)
        if not (_is_number(terminated) and _is_number(truncated)):
            ends = f"terminated={_short(terminated)}, truncated={_short(truncated)}"
            raise UserError(f"{self._name}: its step returned {ends}: each should be true or false")
        reward, seen = (float(np.asarray(reward).item()) if _is_number(reward) else reward), self._seen(observation)
        if terminated:
            return dm_env.termination(reward, seen)
        return (dm_env.truncation if truncated else dm_env.transition)(reward, seen)

    def action_spec(self) -> Any:
        space = self._env.action_space
        if not isinstance(space, gymnasium.spaces.Box):
            return space
        return specs.BoundedArray(space.shape, space.dtype, space.low, space.high)

    def close(self) -> None:
        self._env.close()

    def _parts(self, method: str, answer: Any, parts: tuple[str, ...]) -> Any:
        if isinstance(answer, tuple) and len(answer) == len(parts):
            return answer
        got = f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
        raise UserError(
            f"{self._name}: its {method} returned {got}, and should return ({', '.join(parts)}), as gymnasium's does; "
            "that of gym before 0.26 did not"
        )

    def _seen(self, observation: Any) -> Any:
        return self._env.render() if self._rendered else observation


def check(constructor: str, arguments: Mapping[str, Any]) -> None:
    """Imports a constructor without calling it.

    Args:
        constructor: `package.module:function`, or `path/to/file.py:function`.
        arguments: its arguments by name, besides the first one, the random state.

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
    """Returns the function that `constructor` names. Raises UserError: there is none."""
    place, _, name = constructor.rpartition(":")
    if not place or not name:
        raise UserError(f"env.constructor={constructor} should be package.module:function or path/to/file.py:function")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, OSError) as error:
        raise UserError(f"env.constructor={constructor} cannot be imported: {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"env.constructor={constructor} cannot be imported: {with_place(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"env.constructor={constructor}: {place} has no function {name}")
    return function


def _file(path: Path) -> ModuleType:
    """Imports a file as under its module name: it can import its neighbours, and other modules can import it."""
    path = path.expanduser().resolve(strict=True)
    package, folder = [], path.parent
    while folder.name.isidentifier() and (folder / "__init__.py").exists():
        package.insert(0, folder.name)
        folder = folder.parent
    if str(folder) not in sys.path:  # first, as Python does for a script, unless it would hide a standard module
        hides = any(file.stem in sys.stdlib_module_names for file in folder.glob("*.py"))
        sys.path.insert(len(sys.path) if hides else 0, str(folder))
    if package:
        importlib.import_module(".".join(package))
    name = ".".join([*package, path.stem])
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None:  # another file has this name
        name = f"{name}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look for it there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return sys.modules[name]


def _is_number(value: Any) -> bool:
    array = np.asarray(value)
    return array.size == 1 and array.dtype.kind in "fiub" and bool(np.isfinite(array).all())


def _short(value: Any) -> str:
    text = one_line(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
