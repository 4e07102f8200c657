"""All tasks of the dm_control suite, in the colours of the paper.

Physics and rewards are the suite's own. Import this module only after `render.backend.choose`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import absl.logging
import dm_env
import numpy as np
from dm_control import suite
from dm_control.suite import common
from dm_env import specs
from numpy.typing import NDArray

from denoised_mdp.envs.render import SKY, Quality, renderer
from denoised_mdp.envs.render.backend import Backend
from denoised_mdp.envs.world import FactorKind, Picture, stream
from denoised_mdp.errors import UserError

TASKS: dict[str, tuple[str, str]] = {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}

# Geoms that are background besides the sky. The paper keeps cheetah's floor, whose texture shows the speed.
_BACKGROUND: dict[str, tuple[str, ...]] = {
    "cheetah": (),
    "manipulator": ("floor", "background"),  # the camera looks at a textured wall
    "stacker": ("floor", "background"),
}
_BACKGROUND_ELSEWHERE = ("floor", "ground", "terrain")  # a terrain (quadruped_escape) leaves no sky in the picture

# The paper's suite has a grey floor in some domains, and a floor bluer than stock in the others.
_GREY_FLOOR = ("cheetah", "walker", "hopper", "stacker")
_FLOOR = 'rgb1=".1 .2 .3" rgb2=".2 .3 .4"'
_MARK = 'markrgb=".2 .3 .4"'
_GREY = ('rgb1=".1 .1 .1" rgb2=".2 .2 .2"', 'markrgb=".1 .1 .1"')
_BLUE = ('rgb1=".1 .1 .4" rgb2=".2 .2 .8"', 'markrgb=".1 .1 .4"')

# Per domain, the reading of its Physics that enters the reward and accepts noise, and the change that noise of 1 makes
# (Sec. B.1.1): the running speed, the standing height, the distance that counts as touching.
SENSORS: dict[str, tuple[str, Callable[[Any], float]]] = {
    "cheetah": ("speed", lambda physics: 10.0),
    "walker": ("torso_height", lambda physics: 1.2),
    "reacher": (
        "finger_to_target_dist",
        lambda physics: physics.named.model.geom_size[["target", "finger"], 0].sum(),
    ),
}

_UNBOUNDED = 1e9  # dm_control sets bounds of 1e10 for actuators without limits
_HINGE = 3  # mujoco's mjJNT_HINGE
_EPISODE_FRAMES = 1000  # for the tasks without a time limit (lqr); all others have this limit


class DeepMindControl:
    """A task of the suite as a World.

    Its factors are the positions and velocities of its joints, and the targets that do not move during an episode.
    """

    def __init__(
        self,
        domain: str,
        task: str,
        *,
        seed: int,
        backend: Backend,
        quality: Quality,
        camera: int,
        image_size: int,
        background: bool,
    ):
        """Args: `background`: whether pictures mark the background; OpenGL needs a second rendering for it.

        Raises:
            UserError: the task has no such camera.
        """
        with _paper_colours(domain), _quiet():
            self._env = suite.load(domain, task, task_kwargs={"random": seed})
        self._physics = self._env.physics
        if not 0 <= camera < (cameras := self._physics.model.ncam):
            raise UserError(f"env.camera={camera}: {domain}_{task} has the cameras 0 to {cameras - 1}")
        if backend == "ray":
            _without_contexts(self._physics)
        if domain in SENSORS:
            _with_sensor_noise(self._physics, domain)
        if self._env._step_limit == float("inf"):
            self._env._step_limit = _EPISODE_FRAMES
        self.episode_frames = round(self._env._step_limit)
        self._renderer = renderer(backend, self._physics, camera=camera, size=image_size, quality=quality)
        self._with_background = background
        names = _BACKGROUND.get(domain, _BACKGROUND_ELSEWHERE)
        model = self._physics.model.ptr
        self._background = np.array([SKY, *(i for i in range(model.ngeom) if model.geom(i).name in names)], np.int32)
        self._robot = np.flatnonzero(model.body_weldid[model.geom_bodyid])  # geoms that can move
        self._targets = _fixed_targets(model)
        self.factor_kinds: dict[str, FactorKind] = {
            "position": "controlled_rewarded",
            "velocity": "controlled_rewarded",
            **{name: "controlled_rewarded" for name in self._targets},
        }
        self.factor_periods = {"position": _periods(model)}

    def reset(self) -> dm_env.TimeStep:
        return self._env.reset()

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        return self._env.step(action)

    def action_spec(self) -> specs.BoundedArray:
        """Returns the suite's own bounds; actuators without limits get [-1, 1]."""
        spec = self._env.action_spec()
        low, high = (np.broadcast_to(bound, spec.shape) for bound in (spec.minimum, spec.maximum))
        bounded = high - low < _UNBOUNDED
        return specs.BoundedArray(spec.shape, spec.dtype, np.where(bounded, low, -1.0), np.where(bounded, high, 1.0))

    def render(self) -> Picture:
        frame = self._renderer.render(geoms=self._with_background)
        return Picture(frame.rgb, np.isin(frame.geoms, self._background))

    def factors(self) -> dict[str, np.ndarray]:
        data = self._physics.data
        targets = {name: getattr(data, f"{kind}_xpos")[i].copy() for name, (kind, i) in self._targets.items()}
        return {"position": data.qpos.copy(), "velocity": data.qvel.copy(), **targets}

    def set_sensor_noise(self, noise: float) -> None:
        """Adds noise to the sensor of the reward (`SENSORS`) from the next step on; physics and pictures stay."""
        self._physics.sensor_noise = noise

    def robot_mask(self) -> NDArray[np.bool_]:
        """Returns a mask of everything that moves: a ball as well as the robot."""
        return np.isin(self._renderer.render(geoms=True).geoms, self._robot)

    def seed(self, seed: np.random.SeedSequence) -> None:
        self._env.task.random.seed(stream(seed, "world").generate_state(1)[0])

    def seed_noise(self, seed: np.random.SeedSequence) -> None:
        """Does nothing: the suite has no noise."""

    def state(self) -> dict[str, Any]:
        name, keys, position, has_gauss, gauss = self._env.task.random.get_state()
        return {"random": [name, keys.tolist(), int(position), int(has_gauss), float(gauss)]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._env.task.random.set_state(tuple(state["random"]))

    def close(self) -> None:
        self._env.close()


@contextmanager
def _paper_colours(domain: str) -> Iterator[None]:
    """Gives the suite's shared assets the colours of the paper's copy of the suite, inside the context."""
    floor, mark = _GREY if domain in _GREY_FLOOR else _BLUE
    edits = {
        "./common/materials.xml": [
            (_FLOOR, floor),
            (_MARK, mark),
            ('name="decoration" rgba=".3 .5 .7 1"', 'name="decoration" rgba=".7 .5 .3 1"'),
        ],
        "./common/skybox.xml": [('markrgb="1 1 1"', 'markrgb="0 0 0"')],
    }
    stock = {name: common.ASSETS[name] for name in edits}
    try:
        for name, replacements in edits.items():
            text = stock[name].decode()
            for old, new in replacements:
                if old not in text:
                    raise RuntimeError(f"dm_control's {name} no longer holds {old}")
                text = text.replace(old, new)
            common.ASSETS[name] = text.encode()
        yield
    finally:
        common.ASSETS.update(stock)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences mujoco's warnings about the suite's own models; no user can act on them."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _without_contexts(physics: Any) -> None:
    """Shows tasks that upload to the graphics card (quadruped escape's terrain) that there is no card."""
    physics.__class__ = type(type(physics).__name__, (type(physics),), {"contexts": None})


def _with_sensor_noise(physics: Any, domain: str) -> None:
    """Adds `physics.sensor_noise`, in units of the domain's scale, to its sensor's reading."""
    stock, (name, scale) = type(physics), SENSORS[domain]

    def reading(self: Any) -> float:
        return getattr(stock, name)(self) + self.sensor_noise * scale(self)

    physics.__class__ = type(stock.__name__, (stock,), {name: reading, "sensor_noise": 0.0})


def _fixed_targets(model: Any) -> dict[str, tuple[str, int]]:
    """Returns the geoms and sites named target..., fixed in the world for an episode: name -> (kind, id)."""
    targets: dict[str, tuple[str, int]] = {}
    for i in range(model.ngeom):
        if model.geom(i).name.startswith("target") and model.body_weldid[model.geom_bodyid[i]] == 0:
            targets.setdefault(model.geom(i).name, ("geom", i))
    for i in range(model.nsite):
        if model.site(i).name.startswith("target") and model.body_weldid[model.site_bodyid[i]] == 0:
            targets.setdefault(model.site(i).name, ("site", i))
    return targets


def _periods(model: Any) -> NDArray[np.float64]:
    """Returns [nq]: 2 pi for the joints without rotation limits, else 0."""
    turning = (model.jnt_type == _HINGE) & (model.jnt_limited == 0)
    periods = np.zeros(model.nq)
    periods[model.jnt_qposadr[turning]] = 2 * np.pi
    return periods
