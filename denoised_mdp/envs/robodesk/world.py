"""RoboDesk as a World: the package's physics and actions, the paper's camera, television and lamps.

Import this module only after `render.backend.choose`.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's names live in a C extension without stubs.

from __future__ import annotations

import copy
import functools
import logging

import dm_env
import mujoco
import numpy as np
from dm_control.mujoco import Physics
from dm_control.mujoco.wrapper import MjModel
from dm_control.utils.inverse_kinematics import qpos_from_site_pose
from dm_env import specs
from numpy.typing import ArrayLike, NDArray

from denoised_mdp.envs.render import Quality, renderer
from denoised_mdp.envs.render.backend import Backend
from denoised_mdp.envs.robodesk import scene
from denoised_mdp.envs.robodesk.stage import Stage
from denoised_mdp.envs.robodesk.tasks import BLOCKS, TASKS, TELEVISION, Desk, Earnings, Reward
from denoised_mdp.envs.world import FactorKind, Picture, RandomWorld, stream

# At many steps the goal of the hand is out of the arm's reach, and the hand goes as far as it can: no warning.
logging.getLogger("absl").addFilter(lambda record: not str(record.msg).startswith("Failed to converge"))

_SUBSTEPS = 10  # of 2 ms
_ARM = tuple(f"panda0_joint{i}" for i in range(1, 7))  # these move the hand; the seventh joint turns the wrist
_JOINTS = 9  # of the robot: seven and two fingers
_HAND, _WRIST = 0.01, 0.02  # movement by an action of 1: metres, and a share of the wrist's range
_HOME = np.array([-0.30, -0.4, 0.28, -2.5, 0.13, 1.87, 0.91, 0.01, 0.01])  # radians, and metres
_SPREAD = 0.15  # share of the joints' ranges that a reset adds at random
_STARTS = {  # ranges of the random shifts at a reset, metres
    ("drawer_joint", 0): (0, -0.10),
    ("slide_joint", 0): (0, 0.20),
    ("flat_block", 0): (0, 0.30),
    ("flat_block", 1): (0, 0.07),
    ("ball", 0): (0, 0.48),
    ("ball", 1): (0, 0.08),
    ("upright_block", 0): (0.05, 0.35),
    ("upright_block", 1): (0, 0.05),
}
_DEPTH = 0.005  # metres; travel of a pressed button
_HUE = 0.75  # how green a pressed button turns the television
_LAMP_GAIN, _LAMP_REST, _LAMP_BIAS = 6.0, 0.12, 0.4  # from a button's reading to its lamp's opacity

_AIM, _DISTANCE, _AZIMUTH, _ELEVATION = np.array([0, 0.535, 1.1]), 1.8, 90.0, -60.0  # the package's; metres, degrees
_FARTHER = {"distance": 1.15, "elevation": 13.0}  # the paper's camera, after its random walk
_ASIDE = np.array([0.875, 0.4, 0.875])  # metres, shift of its aim
_CUT = 38.84 / 180  # share of the picture that is cut off at the top; the rest is scaled to a square

_MOVING_HEADLIGHT = (0.225, 0.9, 0.9)  # ambient, diffuse, specular while the lights move; brighter than usual


class RoboDesk(RandomWorld):
    """The World of one task. Distractors change it through `stage`.

    Rewards and the readings of the buttons are computed at each control step; the look of the scene is updated only for
    pictures.
    """

    def __init__(
        self,
        task: str,
        *,
        reward: Reward,
        television_hue: bool,
        episode_frames: int,
        seed: np.random.SeedSequence,
        backend: Backend,
        quality: Quality,
        image_size: int,
    ):
        """Loads the scene of a task.

        Args:
            task: one of TASKS.
            television_hue: whether the green button's reading turns the television green.

        Raises:
            UserError: the package `robodesk` is not installed.
        """
        self.stage = Stage()
        self.episode_frames = episode_frames
        self._physics = Physics.from_model(MjModel(copy.copy(_compiled())))
        self._hand = self._physics.copy(share_model=True)  # a copy for the inverse kinematics
        self._desk, self._earnings = Desk(self._physics), Earnings(task, reward)
        self._hues = television_hue
        self._rng = np.random.default_rng(stream(seed, "world"))
        self._t = 0
        model = self._model = self._physics.model.ptr
        self._low, self._high = model.actuator_ctrlrange.T.copy()
        parts = ("lamp", "bright", "dark")
        self._lamps = [[model.geom(f"{button}_{part}").id for part in parts] for button in scene.BUTTONS]
        self._light_places = model.light_pos.copy()
        self._camera, self._screen = model.camera("view").id, model.tex("screen").id
        self._shown = np.zeros((scene.SCREEN, scene.SCREEN, 3), np.uint8)  # the picture on the screen
        self._renderer = renderer(
            backend, self._physics, camera=self._camera, size=image_size, quality=quality, cut=_CUT
        )
        self._look_at_buttons()
        robot = [i for i in range(model.nbody) if model.body(i).name.startswith("panda0")]
        self._robot = np.flatnonzero(np.isin(model.geom_bodyid, robot))
        self._no_background = np.zeros((image_size, image_size), np.bool_)
        rewarded = {"position", "velocity", *TASKS[task].factors}
        if task == TELEVISION and not television_hue:
            rewarded.remove("television_green")
        self.factor_kinds: dict[str, FactorKind] = {
            name: "controlled_rewarded" if name in rewarded else "controlled" for name in self.factors()
        }
        if not television_hue:
            self.factor_kinds["television_green"] = "rewarded" if task == TELEVISION else "neither"
        self.factor_periods: dict[str, ArrayLike] = {}

    def reset(self) -> dm_env.TimeStep:
        physics, rng = self._physics, self._rng
        physics.reset()
        for (joint, axis), (low, high) in _STARTS.items():
            physics.named.data.qpos[joint][axis] += low + (high - low) * rng.random()
        physics.data.qpos[:_JOINTS] = _HOME + _SPREAD * rng.uniform(self._low, self._high)
        physics.forward()
        self._t = 0
        self._desk.restart()
        self._earnings.restart()
        self._look_at_buttons()
        return dm_env.restart(None)

    def step(self, action: NDArray[np.float64]) -> dm_env.TimeStep:
        """Takes a step; `action` [5]: the hand's motion along x, y and z; the wrist's turn; the fingers' opening."""
        data, goal = self._physics.data, self._goal(action)
        for _ in range(_SUBSTEPS):
            data.ctrl[:] = goal
            data.qfrc_applied[:_JOINTS] = data.qfrc_bias[:_JOINTS]  # against gravity
            self._physics.step()
        self._look_at_buttons()
        self._t += 1
        reward = self._earnings.step(self._desk)
        return dm_env.truncation(reward, None) if self._t == self.episode_frames else dm_env.transition(reward, None)

    def action_spec(self) -> specs.BoundedArray:
        return specs.BoundedArray((5,), np.float64, -1.0, 1.0)

    def render(self) -> Picture:
        self._dress()
        return Picture(self._renderer.render(geoms=False).rgb, self._no_background)

    def factors(self) -> dict[str, np.ndarray]:
        """Returns positions in radians and metres (those of blocks with a quaternion); a pressed button is 1."""
        data = self._physics.data
        joints = self._physics.named.data.qpos
        found = {
            "position": data.qpos[:_JOINTS].copy(),
            "velocity": data.qvel[:_JOINTS].copy(),
            "drawer": np.array(self._desk.joint("drawer_joint")),
            "slide": np.array(self._desk.joint("slide_joint")),
            **{block: joints[block].copy() for block in BLOCKS},
            **{
                f"{button}_button": np.array(depth) for button, depth in zip(scene.BUTTONS, self._depths(), strict=True)
            },
            "television_green": np.array(self._desk.television_green),
        }
        if self._hues:
            found["television_hue"] = np.array(self._hue)
        return found

    def robot_mask(self) -> NDArray[np.bool_]:
        """Returns a mask of the arm with its hand."""
        self._dress()
        return np.isin(self._renderer.render(geoms=True).geoms, self._robot)

    def close(self) -> None:
        self._hand.free()
        self._physics.free()

    def _goal(self, action: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the target positions [9] of the joints."""
        here = self._physics.data.qpos
        self._hand.data.qpos[:] = here
        place = self._physics.named.data.site_xpos["end_effector"] + _HAND * action[:3]
        goal = (
            qpos_from_site_pose(self._hand, "end_effector", place, joint_names=_ARM, inplace=True).qpos[:_JOINTS].copy()
        )
        turn, fingers = self._low[6:8] + (action[3:] + 1) / 2 * (self._high - self._low)[6:8]
        goal[6] = np.clip(here[6] + _WRIST * turn, self._low[6], self._high[6])
        goal[7:] = fingers
        return goal

    def _depths(self) -> list[float]:
        return [-self._desk.joint(f"{button}_light") / _DEPTH for button in scene.BUTTONS]

    def _look_at_buttons(self) -> None:
        """Reads the buttons [3], red, green and blue, and sets the television's hue from the green reading."""
        noise = self.stage.button_noise
        self._readings = np.array(self._depths()) + (0.0 if noise is None else noise)
        self._hue = float(np.clip(_HUE * self._readings[1], 0, 1)) if self._hues else 0.0
        self._desk.television_green = (1 - self._hue) * self.stage.video_green + self._hue

    def _dress(self) -> None:
        """Sets lamps, lights, camera and television of the model as in the stage. This does not affect the physics."""
        model, stage = self._model, self.stage
        if stage.button_noise is not None:  # else the lamps are the package's, which rise out of their holders
            opacity = np.clip(_LAMP_GAIN * (self._readings - _LAMP_REST) + _LAMP_BIAS, -1, 1)
            for (lamp, bright, dark), alpha in zip(self._lamps, opacity, strict=True):
                model.geom_rgba[[lamp, bright, dark], 3] = 0, max(alpha, 0), max(-alpha, 0)
        if stage.light_offset is not None:
            self._place_lights(stage.light_offset, stage.light_intensity)
        model.cam_pos[self._camera], model.cam_quat[self._camera] = view(stage.camera_offset)
        mujoco.mj_camlight(model, self._physics.data.ptr)
        self._show(stage.video)

    def _place_lights(self, offset: NDArray[np.float64], intensity: NDArray[np.float64]) -> None:
        """Aims every light at the origin, and dims it with its distance."""
        model, before = self._model, self._light_places
        model.light_pos[:] = before
        model.light_pos[:, :2] += offset
        distance, distance_before = (
            np.linalg.norm(place, axis=-1, keepdims=True) for place in (model.light_pos, before)
        )
        model.light_dir[:] = -model.light_pos / distance
        model.light_diffuse[:] = intensity[:, None] * (distance_before / distance) ** 2
        head = model.vis.headlight
        for field, strength in zip((head.ambient, head.diffuse, head.specular), _MOVING_HEADLIGHT, strict=True):
            field[:] = strength

    def _show(self, video: NDArray[np.uint8]) -> None:
        """Puts a picture [60, 120, 3] on the television, each row twice, with the hue mixed into its green channel."""
        picture = np.repeat(video, 2, axis=0)
        picture[..., 1] = (1 - self._hue) * picture[..., 1] + 255 * self._hue
        if (picture == self._shown).all():
            return
        self._shown = picture
        start = int(self._model.tex_adr[self._screen]) + scene.SCREEN_FACE * picture.size
        self._model.tex_data[start : start + picture.size] = picture.reshape(-1)
        self._renderer.reload(self._screen)


def view(offset: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns position [3] and orientation [4], a quaternion, of the paper's camera.

    offset: [2, 3] metres, of the package's camera and of its aim, before the move to the paper's view.
    """
    place, aim = np.stack([_AIM - _DISTANCE * _forward(_AZIMUTH, _ELEVATION), _AIM]) + offset
    way = aim - place
    distance = float(np.linalg.norm(way))
    azimuth = np.rad2deg(np.arctan2(way[1], way[0]))
    elevation = np.rad2deg(np.arcsin(way[2] / distance)) + _FARTHER["elevation"]
    forward = _forward(azimuth, elevation)
    right = _forward(azimuth - 90, 0)
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.stack([right, np.cross(right, forward), -forward], -1).reshape(-1))
    return aim + _ASIDE - (distance + _FARTHER["distance"]) * forward, quaternion


def _forward(azimuth: float, elevation: float) -> NDArray[np.float64]:
    """Returns the direction [3] of mujoco's camera angles, degrees."""
    a, e = np.deg2rad(azimuth), np.deg2rad(elevation)
    return np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])


@functools.cache
def _compiled() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(scene.xml(scene.folder()))
