"""RoboDesk: the package's physics and rewards, the paper's scene and its noise in numbers.

Tests that need the files of the package `robodesk` are skipped without it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import absl.logging
import dm_env
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from dm_env import specs
from environments import play, same
from PIL import Image

from denoised_mdp import envs
from denoised_mdp.config.compose import compose
from denoised_mdp.envs import Env, FactorKind, Picture, build
from denoised_mdp.envs.noise.button_noise import ButtonNoise
from denoised_mdp.envs.noise.camera_walk import CameraWalk
from denoised_mdp.envs.noise.moving_lights import MovingLights
from denoised_mdp.envs.noise.television import Television, vivid
from denoised_mdp.envs.render import backend
from denoised_mdp.envs.robodesk import scene
from denoised_mdp.envs.robodesk.stage import Stage
from denoised_mdp.envs.robodesk.tasks import BLOCKS, TASKS, Earnings
from denoised_mdp.envs.video import Clip, load
from denoised_mdp.errors import UserError
from denoised_mdp.runs.evaluation import make_env

backend.choose("ray")  # before dm_control is imported, hence the late import

from denoised_mdp.envs.robodesk.world import RoboDesk, view  # noqa: E402

PARTS = build.ROBODESK_NOISE
NOISE_FACTORS = ("video_frame", "green_button_noise", "light_angle", "light_intensity", "camera_walk")
HERE = Path(__file__).parent
without_package = importlib.util.find_spec("robodesk") is None
needs_package = pytest.mark.skipif(without_package, reason=f"the extra robodesk is not installed: {scene.INSTALL}")


@functools.cache
def settings(noise: str) -> dict[str, dict[str, Any]]:
    config = compose(["env=robodesk", f"noise={noise}"])
    return {group: getattr(config, group).model_dump() for group in ("env", "render", "noise")}


def make(noise: str = "robodesk_all", *, seed: int = 1, **changes: Any) -> Env:
    changes = {"backend": "ray", "source": "pink", "clip_frames": 20} | changes
    groups = {
        group: {name: changes.pop(name, value) for name, value in values.items()}
        for group, values in settings(noise).items()
    }
    assert not changes, changes
    return envs.make(**groups, seed=seed, split="train")


def inside(env: Env) -> RoboDesk:
    world = env._world
    while not isinstance(world, RoboDesk):
        world = world._world  # type: ignore[attr-defined]
    return world


def put(world: RoboDesk, **joints: Any) -> None:
    """Sets joints, or the first of their coordinates."""
    for name, value in joints.items():
        world._physics.named.data.qpos[name][: np.size(value)] = value
    world._physics.forward()
    world._look_at_buttons()


def press(world: RoboDesk, button: str) -> None:
    """Pushes a button down and holds it there."""
    put(world, **{f"{button}_button": -0.005, f"{button}_light": -0.005})
    world._physics.data.qfrc_applied[world._model.joint(f"{button}_button").dofadr] = -0.1  # newton


def steps_of(env: Env, count: int) -> list[tuple[float, dict[str, np.ndarray]]]:
    """Rewards and factors of control steps with random actions, without pictures."""
    rng, world = np.random.default_rng(0), env._world
    world.reset()
    return [(world.step(rng.uniform(-1, 1, 5)).reward or 0.0, world.factors()) for _ in range(count)]


# The package


@pytest.fixture(scope="module")
def package():
    """The package's own environment, which gets an empty gym and no pictures."""
    gym = types.ModuleType("gym")
    gym.Env = object  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("their_robodesk", scene.folder().with_name("robodesk.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gym"] = gym
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["gym"]
    theirs = module.RoboDesk()
    theirs.render = lambda resize: None
    theirs.reset()
    return theirs


def at_state_of(theirs: Any, ours: RoboDesk) -> Any:
    """Puts the package's environment where ours is."""
    theirs.physics.reset()
    theirs.physics.data.qpos[:] = ours._physics.data.qpos
    theirs.physics.forward()
    theirs.physics_copy.data.qpos[:] = theirs.physics.data.qpos
    theirs.original_pos = {block: ours._desk.start(block) for block in BLOCKS}
    return theirs


SITUATIONS: dict[str, dict[str, Any]] = {
    "as at a reset": {},
    "slide open": {"slide_joint": 0.57, "flat_block": (0.16, 0.64)},
    "drawer open": {"drawer_joint": -0.31},
    "red pressed": {"red_light": -0.005, "blue_light": -0.00453},
    "green and blue pressed": {"green_light": -0.005, "blue_light": -0.0046},
    "stacked": {"upright_block": (0.2, 0.7, 0.9), "flat_block": (0.21, 0.7, 0.87)},
    "flat block in the bin": {"flat_block": (0.4, 0.5, 0.2)},
    "ball and upright block in the bin": {"ball": (0.3, 0.6, 0.1), "upright_block": (0.5, 0.4, 0.3)},
    "flat and upright block on the shelf": {"flat_block": (0.3, 1.05, 0.8), "upright_block": (0.45, 1.1, 0.9)},
    "ball on the shelf": {"ball": (0.25, 1.01, 0.8)},
    "ball off the table": {"ball": (-0.7, 0.6, 0.04)},
    "flat block off the table": {"flat_block": (0.7, 0.5, 0.1)},
    "upright block off the table": {"upright_block": (0.6, 0.4, 0.59)},
    "two off the table": {"flat_block": (0.7, 0.5, 0.1), "ball": (0.6, 0.4, 0.59)},
    "all lifted": {"flat_block": (0.2, 0.65, 0.85), "upright_block": (0.3, 0.8, 0.9), "ball": (-0.2, 0.7, 0.83)},
}


@needs_package
def test_tasks_and_rewards_are_the_packages_but_for_where_blocks_started(package):
    """Every one in every situation, from 0 to 1."""
    assert set(package.all_tasks) | {"tv_green_hue"} == set(TASKS) and len(package.all_tasks) == 18
    ours = inside(make("none"))
    done, rewards = set(), set()
    for joints in SITUATIONS.values():
        ours.reset()
        put(ours, **joints)
        theirs = at_state_of(package, ours)
        for task in package.all_tasks:
            dense, sparse = (Earnings(task, reward).step(ours._desk) for reward in ("dense", "sparse"))
            assert dense == pytest.approx(theirs._get_task_reward(task, "dense_reward"), abs=1e-9), (task, joints)
            assert sparse == theirs._get_task_reward(task, "success"), (task, joints)
            rewards.add(round(dense, 6))
            if sparse:
                done.add(task)
    assert done == set(package.all_tasks)  # each is done in some situation, or this shows less
    assert len(rewards) > 100


@needs_package
def test_actions_and_physics_are_the_packages(package):
    ours = inside(make())
    ours.reset()
    theirs = at_state_of(package, ours)
    rng = np.random.default_rng(0)
    for _ in range(10):
        action = rng.uniform(-1, 1, 5)
        ours.step(action)
        theirs.step(action)
        np.testing.assert_allclose(ours._physics.data.qpos, theirs.physics.data.qpos, atol=1e-9)
    assert np.abs(ours._physics.data.qvel[:9]).max() > 0.01


@needs_package
def test_a_reset_puts_things_where_the_packages_does(package):
    ours = inside(make("none"))

    def spread(environment: Any, physics: Any) -> np.ndarray:
        found = []
        for _ in range(200):
            environment.reset()
            found.append(physics.data.qpos.copy())
        return np.array([np.min(found, 0), np.max(found, 0)])

    np.random.seed(0)
    np.testing.assert_allclose(spread(ours, ours._physics), spread(package, package.physics), atol=0.06)


# The tasks


@needs_package
@pytest.mark.parametrize("task", TASKS)
def test_every_task_loads_steps_renders_and_rewards(task):
    env = make(task=task, reward="success" if task.startswith("push") else "dense")
    assert (env.action_size, env.observation_shape, env.action_repeat, env.episode_frames) == (5, (96, 96, 3), 2, 1000)
    for step in play(env, 1):
        assert step.observation.std() > 20 and step.observation.dtype == np.uint8
        assert np.isfinite(step.reward) and 0 <= step.reward <= 2
        assert step.info["factors"].keys() == env.factor_kinds.keys()
        assert all(np.isfinite(value).all() for value in step.info["factors"].values())
    env.close()


@needs_package
def test_success_is_paid_once_and_sparse_while_it_lasts():
    worlds = {reward: inside(make(task="push_green", reward=reward)) for reward in ("sparse", "success")}
    paid = {}
    for reward, world in worlds.items():
        world.reset()
        still = [world.step(np.zeros(5)).reward]
        press(world, "green")
        paid[reward] = still + [world.step(np.zeros(5)).reward for _ in range(4)]
    assert paid == {"sparse": [0, 1, 1, 1, 1], "success": [0, 1, 0, 0, 0]}


@needs_package
def test_of_tv_green_hue_success_is_the_greenest_so_far():
    world = inside(make(reward="success"))
    world.reset()
    rewards, greens = [], []
    for green in (0.3, 0.2, 0.7, 0.5):
        world.stage.video_green = green
        rewards.append(world.step(np.zeros(5)).reward)
        greens.append(world.factors()["television_green"].item())
    assert sum(rewards) == pytest.approx(max(greens)) and rewards[1] == rewards[3] == 0 < rewards[2]


@needs_package
def test_an_episode_is_cut_after_its_frames():
    env = make("none", episode_frames=5)
    steps = play(env, 3)
    assert [step.is_last for step in steps] == [False, False, False, True] and not steps[-1].is_terminal


# The television


@needs_package
@pytest.mark.parametrize("noise", ["none", "robodesk_all"])
def test_the_television_turns_green_when_the_button_is_pressed(noise):
    env = make(noise)
    world = inside(env)
    before = env.reset()
    press(world, "green")
    after = env.step(np.zeros(5))
    factors = after.info["factors"]
    assert factors["green_button"] == pytest.approx(1, abs=0.15) and factors["television_hue"] > 0.3
    screen = after.observation[5:40, 20:].astype(int), before.observation[5:40, 20:].astype(int)
    greener = [(picture[..., 1] - picture[..., [0, 2]].mean(-1)).mean() for picture in screen]
    assert greener[0] > greener[1] + 60
    near = max(
        0, 1 - np.linalg.norm(world._desk.place("green_button") - world._physics.named.data.site_xpos["end_effector"])
    )
    assert world._earnings.step(world._desk) == pytest.approx(0.5 * factors["television_green"] + 0.25 * near + 0.25)


@needs_package
def test_no_other_button_tints_it_and_the_hue_can_be_switched_off():
    for button, hue in (("red", True), ("green", False)):
        env = make("none", television_hue=hue)
        env.reset()
        press(inside(env), button)
        step = env.step(np.zeros(5))
        factors = step.info["factors"]
        assert step.observation[5:40, 20:].max() < 10  # dark
        assert factors[f"{button}_button"] > 0.9 and factors["television_green"] < 0.02
    assert "television_hue" not in factors and env.factor_kinds["television_green"] == "rewarded"


@needs_package
def test_the_screen_shows_both_videos_and_what_is_paid_is_its_green():
    env = make(button_noise_strength=2)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(5))
    world, factors = inside(env), env._world.factors()
    model, size = world._model, 120 * 120 * 3
    start = int(model.tex_adr[model.tex("screen").id])
    faces = model.tex_data[start : start + 6 * size].reshape(6, 120, 120, 3)
    assert not faces[[0, 1, 2, 4, 5]].any()
    shown = faces[3]
    hue = factors["television_hue"]
    assert 0 <= hue <= 0.75
    np.testing.assert_array_equal(shown[::2], shown[1::2])
    np.testing.assert_array_equal(shown[::2, :, [0, 2]], world.stage.video[..., [0, 2]])
    np.testing.assert_allclose(shown[::2, :, 1], (1 - hue) * world.stage.video[..., 1] + 255 * hue, atol=1)
    assert factors["television_green"] == pytest.approx(shown[..., 1].mean() / 255, abs=1 / 255)
    assert factors["television_green"] == pytest.approx((1 - hue) * factors["video_green"].mean() + hue)


@needs_package
def test_the_hue_follows_the_noisy_reading_of_the_green_button():
    world = inside(make("none"))
    world.reset()
    for reading, hue in ((-0.3, 0), (0, 0), (0.4, 0.3), (1, 0.75), (1.2, 0.9), (2, 1)):
        world.stage.button_noise = np.array([5, reading, 5])
        put(world, green_light=0)
        assert world.factors()["television_hue"] == pytest.approx(hue)


@needs_package
def test_lamps_show_the_readings():
    """Brighter above 0.12 - 0.4 / 6, grey below, and never both."""
    world = inside(make("none"))
    world.reset()
    put(world, red_light=0, green_light=0, blue_light=0)
    world.stage.button_noise = np.array([0, 1, 0.1])
    world._look_at_buttons()
    world.render()
    alpha = world._model.geom_rgba[np.array(world._lamps), 3]
    np.testing.assert_allclose(alpha, [[0, 0, 0.32], [0, 1, 0], [0, 0.28, 0]], atol=1e-6)


# The picture


@needs_package
def test_the_scene_has_the_papers_parts():
    model = inside(make("none"))._model
    assert (model.nq, model.nv) == (38, 35)  # the package's: the neighbouring desks have no joints
    assert sum(model.geom(i).dataid.item() == model.mesh("desk_main").id for i in range(model.ngeom)) == 3
    assert model.tex("screen").height.item() == 720 and model.tex("screen").width.item() == 120
    assert model.mat("plane_material").reflectance.item() == pytest.approx(0.01)


def test_the_camera_is_the_papers():
    """Azimuth 90, elevation -60 + 13, distance 1.8 + 1.15, and the aim to the side and up."""
    place, quaternion = view(np.zeros((2, 3)))
    aim, down = np.array([0.875, 0.935, 1.975]), np.deg2rad(47)
    np.testing.assert_allclose(place, aim - 2.95 * np.array([0, np.cos(down), -np.sin(down)]), atol=1e-9)
    half = (np.pi / 2 - down) / 2
    np.testing.assert_allclose(quaternion, [np.cos(half), np.sin(half), 0, 0], atol=1e-9)
    # Camera and aim together: a shift. The aim alone, upwards: the camera comes nearer in distance and looks less down.
    shifted, same_quaternion = view(np.array([[0.1, -0.2, 0.3]] * 2))
    np.testing.assert_allclose(shifted - place, [0.1, -0.2, 0.3])
    np.testing.assert_allclose(same_quaternion, quaternion)
    assert view(np.array([[0, 0, 0], [0, 0, 0.1]]))[1][1] > quaternion[1]


@needs_package
def test_the_robot_is_whole():
    """One piece, not at the picture's rim but below, where it stands, and white."""
    env = make("none")
    step = play(env, 2)[-1]
    mask = env.robot_mask()
    assert mask is not None and mask.shape == (96, 96)
    pieces: Any = scipy.ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(pieces[0].reshape(-1))[1:]
    assert 100 < mask.sum() < 900 and sizes.max() > 0.95 * mask.sum()
    assert not mask[:48].any() and not mask[:, 48:].any()
    red, green, blue = step.observation[mask].mean(0)
    assert min(red, green, blue) > 110 and abs(red - blue) < 25


def digest(env: Env) -> str:
    found = hashlib.sha256()
    for step in play(env, 2):
        found.update(step.observation.tobytes() + repr(step[1:5]).encode())
        for name, value in step.info["factors"].items():
            found.update(name.encode() + value.tobytes())
    return found.hexdigest()


ELSEWHERE = """
import sys
import numpy as np
path, opengl = sys.argv[1:]
if opengl == "True":
    from denoised_mdp.envs.render import backend
    backend.choose("egl")
    import dm_control.mujoco
from test_envs_robodesk import digest, make
found = {}
if opengl == "True":
    env = make(backend="egl")
    env.reset()
    step = env.step(np.full(5, 0.5))
    found = {"observation": step.observation, "mask": env.robot_mask(), "reward": step.reward}
np.savez(path, digest=digest(make()), gym=bool({"gym", "robodesk"} & sys.modules.keys()), **found)
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """What another process sees, also under OpenGL, where there is any: dm_control takes it up once."""
    path = tmp_path_factory.mktemp("elsewhere") / "found.npz"
    command = [sys.executable, "-c", ELSEWHERE, str(path), str(backend.works("egl"))]
    subprocess.run(command, check=True, capture_output=True, cwd=HERE)
    return np.load(path)


@needs_package
@pytest.mark.skipif(not backend.works("egl"), reason="no EGL here")
def test_the_ray_caster_shows_what_opengl_shows(elsewhere):
    """But for edges, which it leaves jagged: pictures of a quarter of the size are compared."""
    env = make()
    env.reset()
    ray, mask = env.step(np.full(5, 0.5)), env.robot_mask()
    assert ray.reward == elsewhere["reward"]
    assert (mask != elsewhere["mask"]).sum() < 0.15 * elsewhere["mask"].sum()
    small = [
        np.asarray(Image.fromarray(x).resize((24, 24), Image.Resampling.BOX), int)
        for x in (ray.observation, elsewhere["observation"])
    ]
    assert np.abs(small[0] - small[1]).mean() < 6


# The noise


class Still:
    """A World without anything, of endless episodes."""

    episode_frames = 10**6
    factor_periods: dict = {}  # noqa: RUF012

    def __init__(self):
        self.factor_kinds: dict[str, FactorKind] = {}

    def reset(self):
        return dm_env.restart(None)

    def step(self, action):
        return dm_env.transition(0.0, None)

    def action_spec(self):
        return specs.BoundedArray((1,), np.float64, -1, 1)

    def render(self):
        return Picture(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), bool))

    def factors(self):
        return {}

    def robot_mask(self):
        return None

    def seed(self, seed):
        pass

    def seed_noise(self, seed):
        pass

    def state(self):
        return {}

    def set_state(self, state):
        pass

    def close(self):
        pass


def walk(layer: Any, episodes: int, steps: int) -> dict[str, np.ndarray]:
    """The factors [episodes, steps + 1, ...] of a layer around nothing."""
    action, found = np.zeros(1), []
    for _ in range(episodes):
        layer.reset()
        found.append(layer.factors())
        for _ in range(steps):
            layer.step(action)
            found.append(layer.factors())
    return {name: np.array([row[name] for row in found]).reshape(episodes, steps + 1, -1) for name in found[0]}


def test_button_noise_fades_as_in_the_papers_code():
    """ENVIRONMENTS: a standard deviation of 0.295 at a reset, 0.05 after 100 steps, then 0.03."""
    layer = ButtonNoise(Still(), Stage(), strength=1.0, rewarded=True, rng=np.random.default_rng(0))
    path = np.concatenate(list(walk(layer, episodes=400, steps=200).values()))[..., 0]  # of all three buttons
    decay, t = 0.96**0.5, np.array([0, 10, 30, 60, 100, 200])
    slow = decay ** (2 * t) + (1 - decay ** (2 * t)) * (1 - decay) ** 2 / (1 - decay**2)  # variance
    expected = np.sqrt(0.295**2 * slow + 0.0125**2)
    np.testing.assert_allclose(path.std(0)[t], expected, rtol=0.07)
    np.testing.assert_allclose(expected[[0, 4, 5]], [0.295, 0.05, 0.03], atol=0.005)
    np.testing.assert_allclose(path.mean(0)[t], 0, atol=0.03)
    assert np.corrcoef(path[:, 0], path[:, 10])[0, 1] > 0.9


def test_strength_scales_the_noise_of_buttons_and_camera():
    for kind, more in ((ButtonNoise, {"rewarded": False}), (CameraWalk, {})):
        once, twice = (
            walk(kind(Still(), Stage(), strength=strength, rng=np.random.default_rng(0), **more), 2, 3)
            for strength in (1.0, 2.0)
        )
        for name in once:
            np.testing.assert_allclose(2 * once[name], twice[name])


def test_lights_move_and_flicker_as_in_the_papers_code():
    """Steps of a clipped normal on circles; intensities of a clipped normal around 0.3 sin - 0.15, mostly dark."""
    stage = Stage()
    layer = MovingLights(Still(), stage, rng=np.random.default_rng(0))
    path = walk(layer, episodes=250, steps=100)
    angles = np.unwrap(path["light_angle"], axis=1)
    start = (angles[:, 0] + np.pi) % (2 * np.pi) - np.pi  # normal, and wrapped
    assert start.std() == pytest.approx(1, abs=0.08)
    speed, steps = np.array([5**0.5, 1, 3**-0.5]) / 30, np.diff(angles, axis=1)
    assert steps.min() >= -1e-12 and steps.max() <= 0.8
    resting = scipy.stats.norm.cdf(-2)  # the share of steps that would have gone back
    np.testing.assert_allclose((steps < 1e-9).mean((0, 1)), resting, atol=0.005)
    np.testing.assert_allclose(
        steps.mean((0, 1)), speed + (scipy.stats.norm.pdf(2) - 2 * resting) * speed / 2, rtol=0.01
    )
    phase = scipy.stats.norm.ppf((np.arange(400) + 0.5) / 400)[:, None, None]
    t, pitch = np.arange(101)[:, None], np.array([1, 8**0.5, 28**0.5]) / 15
    middle = 0.3 * np.sin(phase + t * pitch) - 0.15
    above = middle / 0.15
    expected = middle * scipy.stats.norm.cdf(above) + 0.15 * scipy.stats.norm.pdf(above)
    np.testing.assert_allclose(path["light_intensity"].mean((0, 1)), expected.mean((0, 1)), rtol=0.07)
    dark = scipy.stats.norm.cdf(-above).mean((0, 1))
    np.testing.assert_allclose((path["light_intensity"] == 0).mean((0, 1)), dark, atol=0.02)
    assert (dark > 0.6).all() and stage.light_offset is not None
    np.testing.assert_allclose(np.linalg.norm(stage.light_offset, axis=-1), [0.5, 0.5**0.5, 1])


@needs_package
def test_a_light_shines_at_the_origin_and_weaker_from_afar():
    world = inside(make("none"))
    world.reset()
    steady, before = world.render().rgb, world._model.light_pos.copy()
    world.stage.light_offset, world.stage.light_intensity = np.array([[0, 0], [1, -1], [0, 0]]), np.array([0, 0.4, 0.1])
    moved, model = world.render().rgb, world._model
    np.testing.assert_allclose(model.light_pos[1], [2, -2, 1])
    np.testing.assert_allclose(model.light_dir[1], np.array([-2, 2, -1]) / 3)
    np.testing.assert_allclose(model.light_diffuse, np.outer([0, 0.4 / 3, 0.1], np.ones(3)), rtol=1e-6)
    np.testing.assert_allclose(model.light_pos[[0, 2]], before[[0, 2]])
    head = model.vis.headlight
    np.testing.assert_allclose([head.ambient[0], head.diffuse[0], head.specular[0]], [0.225, 0.9, 0.9])
    assert np.abs(steady[48:].astype(int) - moved[48:]).mean() > 2  # of equal lights it would be 0


def test_the_cameras_walk_has_the_papers_size():
    """ENVIRONMENTS: standard deviations of 0.011 m an axis of the camera, 0.024 m of its aim."""
    layer = CameraWalk(Still(), Stage(), strength=1.0, rng=np.random.default_rng(0))
    path = walk(layer, episodes=150, steps=150)["camera_walk"][:, 50:]
    np.testing.assert_allclose(path[..., :3].std((0, 1)), 0.011, rtol=0.1)
    np.testing.assert_allclose(path[..., 3:].std((0, 1)), 0.024, rtol=0.1)
    correlation = np.corrcoef(path.reshape(-1, 6).T) - np.eye(6)
    assert np.abs(correlation).max() < 0.15  # all six go their own ways


def television(on_reset: Any, length: int = 9) -> tuple[Television, Stage]:
    frames = (
        np.zeros((length, 60, 60, 3), np.uint8)
        + np.arange(40, 40 + 10 * length, 10).astype(np.uint8)[:, None, None, None]
    )
    clips = Clip(frames, np.arange(length) // 5), Clip(frames + np.uint8(5), np.arange(length) // 5)
    stage = Stage()
    rng = np.random.default_rng(3)
    return Television(Still(), stage, clips, on_reset=on_reset, rewarded=True, rng=rng), stage


def test_both_videos_go_on_by_a_frame_and_the_screen_rolls_by_a_pixel():
    layer, stage = television("random")
    layer.reset()
    left, right = layer.factors()["video_frame"]
    for t in range(130):
        factors = layer.factors()
        np.testing.assert_array_equal(factors["video_frame"], [(left + t) % 9, (right + t) % 9])
        np.testing.assert_array_equal(factors["video_clip"], factors["video_frame"] // 5)
        assert factors["video_shift"] == t % 120
        values = [
            np.clip((40 + 10 * ((p + t) % 9) + 5 * i) * 1.366 - 46.5, 0, 255) for i, p in enumerate((left, right))
        ]
        expected = np.roll(np.repeat(np.array(values, int), 60), t)
        np.testing.assert_allclose(stage.video[30, :, 1], expected, atol=1)
        np.testing.assert_allclose(factors["video_green"], np.array(values) / 255, atol=1 / 255)
        assert stage.video_green == pytest.approx(factors["video_green"].mean())
        layer.step(np.zeros(1))


@pytest.mark.parametrize(("on_reset", "starts"), [("random", 9), ("continue", 1)])
def test_videos_start_anywhere_in_each_episode_or_go_on(on_reset, starts):
    layer, _ = television(on_reset)
    found = []
    for _ in range(100):
        layer.reset()
        found.append(tuple(layer.factors()["video_frame"]))
    assert len({frame for frame, _ in found}) == starts
    assert on_reset == "continue" or len(set(found)) > 40  # the two are not tied


def test_videos_are_sharpened_and_have_more_contrast():
    frames = np.full((1, 5, 5, 3), 100, np.uint8)
    frames[0, 2, 2, 1] = 110
    found = vivid(frames)[0].astype(float)
    plain, peak = 100 * 1.366 - 46.5, 110 * 1.366 - 46.5
    assert found[0, 0, 0] == int(plain)
    assert found[2, 2, 1] == int(3 * peak - 2 * plain) and found[2, 1, 1] == int(plain - 0.5 * (peak - plain))
    assert (
        vivid(np.full((1, 4, 4, 3), 20, np.uint8)).max() == 0
        and vivid(np.full((1, 4, 4, 3), 240, np.uint8)).min() == 255
    )


@pytest.mark.parametrize("source", ["pink", "leaves"])
def test_procedural_videos_in_colour_are_mostly_gray(source):
    clip = load(source, seed=np.random.SeedSequence(0), split="train", count=4, size=60, colour=True)
    assert np.asarray(clip.frames).shape == (4, 60, 60, 3) and np.asarray(clip.frames).dtype == np.uint8
    values = np.asarray(clip.frames, float)
    between = values.std(-1).mean()
    assert 1 < between < 0.4 * values.mean(-1).std()


def test_videos_from_a_folder_keep_their_colours(tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (80, 40), colour).save(tmp_path / name / "0.png")
    arguments = {"seed": np.random.SeedSequence(0), "split": "train", "count": 3, "size": 60}
    frames = np.asarray(load(str(tmp_path), colour=True, **arguments).frames)
    assert frames.shape == (3, 60, 60, 3)
    assert {tuple(frame[0, 0]) for frame in frames} <= {(255, 0, 0), (0, 0, 255)}
    assert np.asarray(load(str(tmp_path), **arguments).frames).shape == (3, 60, 60)


# What noise must leave alone, and where it comes from


@needs_package
def test_noise_leaves_the_physics_alone_and_rewards_too_but_for_the_televisions():
    def played(task: str, *parts: str) -> list[tuple[float, dict[str, np.ndarray]]]:
        return steps_of(make("none", task=task, **dict.fromkeys(parts, True)), 4)

    plain = {task: played(task) for task in ("tv_green_hue", "push_green")}
    for parts in (*((part,) for part in PARTS), PARTS):
        for task in plain if len(parts) > 1 else ("tv_green_hue",):
            noisy = played(task, *parts)
            for (reward, factors), (noisy_reward, noisy_factors) in zip(plain[task], noisy, strict=True):
                for name in ("position", "velocity", "drawer", *BLOCKS, "green_button"):
                    np.testing.assert_array_equal(factors[name], noisy_factors[name], err_msg=f"{name} {parts}")
                if task != "tv_green_hue" or not {"television", "button_noise"} & set(parts):
                    assert reward == noisy_reward
            if task == "tv_green_hue" and "television" in parts:
                assert [reward for reward, _ in plain[task]] != [reward for reward, _ in noisy]


@needs_package
def test_each_part_is_the_same_with_and_without_the_others():
    whole = steps_of(make(), 3)
    for part, names in zip(
        PARTS, (NOISE_FACTORS[:1], NOISE_FACTORS[1:2], NOISE_FACTORS[2:4], NOISE_FACTORS[4:]), strict=True
    ):
        alone = steps_of(make("none", on_reset="random", **{part: True}), 3)
        for name in names:
            np.testing.assert_array_equal([f[name] for _, f in whole], [f[name] for _, f in alone])
        assert not {name for name in NOISE_FACTORS if name not in names} & alone[0][1].keys()


@needs_package
def test_one_physics_is_seen_under_other_noise_of_every_part():
    env, seen = make(), {}
    for noise in (1, 2):
        env.seed(7, noise=noise)
        seen[noise] = steps_of(env, 2)
    for (_, one), (_, other) in zip(seen[1], seen[2], strict=True):
        np.testing.assert_array_equal(one["position"], other["position"])
        for factor in NOISE_FACTORS:
            assert (one[factor] != other[factor]).any(), factor
    env.seed(8, noise=1)
    other_physics = steps_of(env, 2)
    for factor in NOISE_FACTORS:
        np.testing.assert_array_equal(other_physics[0][1][factor], seen[1][0][1][factor])
    assert (other_physics[0][1]["position"] != seen[1][0][1]["position"]).any()


@needs_package
def test_the_kinds_are_those_of_the_papers_table_2():
    """And of another task, whose reward does not see the television."""
    paper, push_red = make().factor_kinds, make(task="push_red").factor_kinds
    arm = {"position", "velocity"}

    def of(kinds: Any, kind: FactorKind) -> set[str]:
        return {name for name, its in kinds.items() if its == kind}

    assert of(paper, "controlled_rewarded") == arm | {"green_button", "television_green", "television_hue"}
    assert of(paper, "controlled") == {"drawer", "slide", *BLOCKS, "red_button", "blue_button"}
    video = {"video_clip", "video_frame", "video_brightness", "video_green"}
    assert of(paper, "rewarded") == video | {"green_button_noise"}
    assert of(paper, "neither") >= {"light_angle", "light_intensity", "camera_walk", "red_button_noise", "video_shift"}
    assert of(push_red, "controlled_rewarded") == arm | {"red_button"} and not of(push_red, "rewarded")
    assert of(push_red, "neither") >= video


@needs_package
def test_angles_and_frames_wrap():
    assert make().factor_periods == {"light_angle": 2 * np.pi, "video_frame": 20, "video_shift": 120}


@needs_package
@pytest.mark.parametrize("on_reset", ["continue", "random"])
def test_a_restored_environment_goes_on_exactly(on_reset):
    """In the second episode, whose noise began where that of the first left it."""
    env = make(on_reset=on_reset, episode_frames=6)
    before = play(env, 5)
    state = json.loads(json.dumps(env.state()))
    copy = make(on_reset=on_reset, episode_frames=6)
    assert before[4].is_first and same(copy.restore(state), before[-1])
    for _ in range(2):
        assert same(copy.step(np.full(5, 0.5)), env.step(np.full(5, 0.5)))
    assert same(copy.reset(), env.reset()) and copy.state() == env.state()


@needs_package
def test_the_seed_decides_everything_in_any_process(elsewhere):
    assert elsewhere["digest"] == digest(make()) != digest(make(seed=2))


@needs_package
def test_gym_and_the_package_are_not_imported(elsewhere):
    assert not elsewhere["gym"]


@needs_package
def test_a_picture_changes_nothing():
    env, unseen = make(), make()
    seen = play(env, 3)
    np.testing.assert_array_equal(env._world.render().rgb, seen[-1].observation)
    rng = np.random.default_rng(0)
    unseen._world.reset()
    for _ in range(3):
        action = rng.uniform(-1, 1, 5)
        for _ in range(2):
            unseen._world.step(action)
    for name, value in unseen._world.factors().items():
        np.testing.assert_array_equal(value, seen[-1].info["factors"][name], err_msg=name)


# Settings


def test_every_part_is_a_switch():
    def parts(*overrides: str) -> list[str]:
        noise = compose(["env=robodesk", *overrides]).noise.model_dump()
        return [part for part in PARTS if noise[part]]

    assert parts() == [] and parts("noise=robodesk_all") == list(PARTS)
    for part in PARTS:
        assert parts(f"noise.{part}=true") == [part]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["env.task=tv_gren_hue"], "env.task=tv_gren_hue is no task of RoboDesk.*tv_green_hue"),
        (["noise=video_background"], "noise.video_background=true is for env=dmc: env.name=robodesk"),
        (["noise.television=true", "noise.source=/nowhere"], "noise.source=/nowhere"),
        (["env.reward=shaped"], "env.reward=shaped: should be 'dense', 'sparse' or 'success'"),
    ],
)
@needs_package
def test_what_a_user_gets_wrong_is_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        make_env(compose(["env=robodesk", "render.backend=ray", *overrides]), seed=0, split="train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", PARTS)
def test_its_noise_is_for_no_other_world(part):
    with pytest.raises(UserError, match=f"noise.{part}=true is for env=robodesk, not for env.name=sunlight"):
        make_env(compose(["env=sunlight", f"noise.{part}=true"]), seed=0, split="train")


def test_a_missing_package_is_one_line_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"env=robodesk needs .* pip install --no-deps robodesk==1.0.0") as caught:
        make("none")
    assert "\n" not in str(caught.value)


def test_a_hand_out_of_reach_is_no_warning(caplog):
    """dm_control's words; others of its warnings are heard."""
    absl.logging.warning("Failed to converge after %i steps: err_norm=%3g", 99, 0.1)
    absl.logging.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
