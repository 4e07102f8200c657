"""The parts of noise, each for itself and together: their processes in numbers, and what they must leave alone."""

import hashlib
import importlib
import json
import subprocess
import sys
import zlib
from pathlib import Path

import dm_env
import numpy as np
import pytest
import scipy.ndimage
from environments import build, play
from omegaconf import OmegaConf

from denoised_mdp import envs
from denoised_mdp.config import sections
from denoised_mdp.config.compose import CONFIGS
from denoised_mdp.envs import build as envs_build
from denoised_mdp.envs.noise.camera_jitter import CameraJitter, moved
from denoised_mdp.envs.noise.noisy_sensor import patch_means
from denoised_mdp.envs.noise.random_layer import RandomLayer
from denoised_mdp.envs.noise.smooth_walk import SmoothWalk
from denoised_mdp.envs.noise.video_background import VideoBackground, grid_means
from denoised_mdp.envs.render import backend
from denoised_mdp.envs.video import Clip
from denoised_mdp.envs.world import STREAMS, stream
from denoised_mdp.runs.replay import Replay

backend.choose("ray")  # before dm_control is imported, hence the late imports

from dm_control.suite import cheetah, reacher, walker  # noqa: E402
from dm_control.utils.rewards import tolerance  # noqa: E402

PARTS = ("video_background", "noisy_sensor", "camera_jitter")
VARIANTS = {
    "none": (),
    "video_background": ("video_background",),
    "video_background_noisy_sensor": ("video_background", "noisy_sensor"),
    "video_background_camera_jitter": ("video_background", "camera_jitter"),
    "camera_jitter": ("camera_jitter",),
    "all": PARTS,
}


def variant(name: str, **changes) -> envs.Env:
    return build(**{part: part in VARIANTS[name] for part in PARTS}, **changes)


class Counter:
    """A World of episodes of `length` control steps with a black picture, all of it background."""

    episode_frames = 4
    factor_kinds: dict = {}  # noqa: RUF012
    factor_periods: dict = {}  # noqa: RUF012

    def __init__(self):
        self.t = 0

    def reset(self):
        self.t = 0
        return dm_env.restart(None)

    def step(self, action):
        self.t += 1
        return dm_env.termination(0.0, None) if self.t == self.episode_frames else dm_env.transition(0.0, None)

    def render(self):
        return envs.Picture(np.zeros((2, 2, 3), np.uint8), np.array([[True, False], [True, True]]))

    def factors(self):
        return {}


def video(on_reset: str, length: int = 7) -> VideoBackground:
    frames = np.broadcast_to(np.arange(1, length + 1, dtype=np.uint8)[:, None, None], (length, 2, 2))
    clip = Clip(frames, np.arange(length) // 4)
    return VideoBackground(Counter(), clip, on_reset=on_reset, rng=np.random.default_rng(3))  # type: ignore[arg-type]


def test_the_video_goes_on_with_every_control_step_but_an_episodes_last():
    world = video("continue")
    start = int(world.factors()["video_frame"])
    shown = []
    for _ in range(3):
        world.reset()
        shown.append(int(world.factors()["video_frame"]))
        for _ in range(4):
            world.step(np.zeros(1))
            shown.append(int(world.factors()["video_frame"]))
    # Episode e shows start + 3 e + (0, 1, 2, 3, 3), in a circle of 7.
    expected = [start + 3 * episode + t for episode in range(3) for t in (0, 1, 2, 3, 3)]
    assert shown == [frame % 7 for frame in expected]
    assert min(shown) == 0 and max(shown) == 6  # it did go around


def test_the_video_starts_anywhere_in_each_episode_if_asked():
    world = video("random")
    starts = []
    for _ in range(50):
        world.reset()
        starts.append(int(world.factors()["video_frame"]))
    assert set(starts) == set(range(7))


def test_the_video_is_seen_where_the_background_was_and_nowhere_else():
    world = video("continue")
    world.reset()
    for _ in range(3):
        world.step(np.zeros(1))
        frame = int(world.factors()["video_frame"])
        rgb = world.render().rgb
        assert (rgb[[0, 1, 1], [0, 0, 1]] == frame + 1).all()
        assert (rgb[0, 1] == 0).all()
        assert world.factors()["video_clip"] == frame // 4


def test_a_video_in_colour_is_shown_in_colour_and_its_brightness_is_the_mean_of_its_channels():
    env = build(video_colour=True, noisy_sensor=True)
    step = env.reset()
    sky = step.observation[0]  # the uppermost row
    assert (sky.max(-1) > sky.min(-1)).any()
    assert step.info["factors"]["video_brightness"].shape == (16,)
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    for means in (grid_means, patch_means):
        np.testing.assert_allclose(means(frames), means(frames.mean(-1)), atol=1e-5)


def test_noise_leaves_the_physics_alone_and_the_reward_too_but_for_the_sensors():
    """Also after `seed`, which every layer passes on."""
    played = {}
    for name in VARIANTS:
        env = variant(name)
        steps = play(env, 5)
        env.seed(7)
        played[name] = steps + play(env, 5)
    for name, steps in played.items():
        for a, b in zip(played["none"], steps, strict=True):
            for factor in ("position", "velocity"):
                np.testing.assert_array_equal(a.info["factors"][factor], b.info["factors"][factor], err_msg=name)
            assert (a.reward == b.reward) or "noisy_sensor" in VARIANTS[name]
    assert [step.reward for step in played["all"]] != [step.reward for step in played["none"]]


def test_each_part_of_noise_is_the_same_with_and_without_the_others():
    shown = {name: [step.info["factors"] for step in play(variant(name), 3)] for name in VARIANTS}
    for factor, names in {
        "video_frame": [name for name, parts in VARIANTS.items() if "video_background" in parts],
        "sensor_noise": [name for name, parts in VARIANTS.items() if "noisy_sensor" in parts],
        "camera_offset": [name for name, parts in VARIANTS.items() if "camera_jitter" in parts],
    }.items():
        one, *others = ([factors[factor] for factors in shown[name]] for name in names)
        for other in others:
            np.testing.assert_array_equal(one, other)
        assert all((factor in factors) == (name in names) for name, all_of in shown.items() for factors in all_of)


def test_the_kinds_are_those_of_the_papers_table_2():
    with_sensor, with_jitter = (variant(f"video_background_{name}") for name in ("noisy_sensor", "camera_jitter"))
    assert with_sensor.factor_kinds == {
        "position": "controlled_rewarded",
        "velocity": "controlled_rewarded",
        "video_clip": "rewarded",
        "video_frame": "rewarded",
        "video_brightness": "rewarded",
        "sensor_noise": "rewarded",
    }
    for factor in ("video_clip", "video_frame", "video_brightness", "camera_offset"):
        assert with_jitter.factor_kinds[factor] == "neither"


def test_the_ground_truth_is_stored_when_asked_for(tmp_path):
    env = variant("all", task="reacher_easy")
    shapes = {"observation_shape": env.observation_shape, "action_size": env.action_size}
    replay = Replay(tmp_path, capacity=100, factors=env.factor_specs, **shapes)
    rng, steps = np.random.default_rng(0), [env.reset()]
    replay.add(steps[0])
    for _ in range(3):
        action = rng.uniform(-1, 1, 2)
        steps.append(env.step(action))
        replay.add(steps[-1], action)
    stored = replay.episode(0)
    assert set(replay.factor_names) == set(env.factor_kinds)
    of_video = {"video_frame", "video_clip", "video_brightness"}
    assert {"position", "velocity", "target", *of_video, "sensor_noise", "camera_offset"} == set(replay.factor_names)
    for name in replay.factor_names:
        np.testing.assert_array_equal(stored[f"factors/{name}"], [step.info["factors"][name] for step in steps])


# The noisy sensor


def cheetah_reward(physics: cheetah.Physics, noise: float) -> float:
    return float(np.clip((physics.named.data.sensordata["torso_subtreelinvel"][0] + 10 * noise) / 10, 0, 1))


def walker_reward(physics: walker.Physics, noise: float) -> float:
    standing = tolerance(physics.named.data.xpos["torso", "z"] + 1.2 * noise, (1.2, float("inf")), margin=0.6)
    upright = (1 + physics.torso_upright()) / 2
    moving = tolerance(physics.horizontal_velocity(), (1, float("inf")), 0.5, value_at_margin=0.5, sigmoid="linear")
    return float((3 * standing + upright) / 4 * (5 * moving + 1) / 6)


def reacher_reward(physics: reacher.Physics, noise: float) -> float:
    radius = 0.05 + 0.01
    return float(0 <= np.linalg.norm(physics.finger_to_target()) + radius * noise <= radius)


@pytest.mark.parametrize(
    ("task", "expected"),
    [("cheetah_run", cheetah_reward), ("walker_walk", walker_reward), ("reacher_easy", reacher_reward)],
)
def test_the_noisy_sensor_enters_the_tasks_own_reward(task, expected):
    """By ENVIRONMENTS' formulas, with the noise of the frame that showed before the control step."""
    env = variant("video_background_noisy_sensor", task=task, action_repeat=1, noisy_sensor_strength=3.0)
    world = env._world
    while not hasattr(world, "_physics"):
        world = world._world  # type: ignore[attr-defined]
    physics, rng = world._physics, np.random.default_rng(0)  # type: ignore[attr-defined]
    step, noises, rewards = env.reset(), [], []
    if task == "reacher_easy":  # at the edge of the target, where noise decides
        with physics.reset_context():
            physics.named.model.geom_pos["target", :2] = physics.named.data.geom_xpos["finger", :2] + (0.06, 0)
    for _ in range(30):
        noise = step.info["factors"]["sensor_noise"].item()
        step = env.step(rng.uniform(-0.1, 0.1, env.action_size))
        assert step.reward == pytest.approx(expected(physics, noise), abs=1e-12)
        noises.append(noise)
        rewards.append((step.reward, expected(physics, 0.0)))
    assert np.ptp(noises) > 0.1
    assert any(noisy != quiet for noisy, quiet in rewards)


def test_the_sensor_reads_a_patch_of_a_quarter_of_the_frame():
    frames = np.zeros((2, 64, 64), np.uint8)
    frames[0, 8:24, 8:24] = 255
    frames[1] = 255
    frames[1, 8:24, 8:24] = 51
    np.testing.assert_allclose(patch_means(frames), [0.5, -0.3])
    assert patch_means(np.full((1, 96, 96), 0, np.uint8)) == -0.5


def test_a_noisy_sensor_changes_no_picture():
    quiet, noisy = (play(variant(name), 4) for name in ("video_background", "video_background_noisy_sensor"))
    for a, b in zip(quiet, noisy, strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)


# The camera


def test_the_cameras_walk_has_the_papers_statistics():
    """ENVIRONMENTS.md, section 2, in pixels of a 64-pixel picture."""
    walk = SmoothWalk(2, np.random.default_rng(0))
    path = np.empty((300, 400, 2))
    for episode in range(300):
        walk.restart()
        for t in range(400):
            path[episode, t] = 120 * walk.position
            walk.step()
    assert path[:, 0].std() == pytest.approx(6.36, rel=0.1)
    later = path[:, 100:]
    assert later.std() == pytest.approx(4.8, rel=0.05)
    far = np.linalg.norm(later, axis=-1)
    assert np.median(far) == pytest.approx(6.8, rel=0.1)
    assert np.quantile(far, 0.95) == pytest.approx(9.9, rel=0.05)
    assert far.max() < 25
    moves = np.diff(path, axis=1)
    assert np.sqrt((moves**2).sum(-1).mean()) == pytest.approx(0.60, rel=0.05)

    def correlation(lag: int) -> float:
        return (later[:, :-lag] * later[:, lag:]).mean() / (later**2).mean()

    assert correlation(10) == pytest.approx(0.72, abs=0.05) and abs(correlation(50)) < 0.15


@pytest.mark.parametrize(
    "offset", [(0, 0), (3, -2), (-7.25, 4.5), (0.5, 0), (-0.3, 63.6), (63.99, -64.5), (200, 0), (-65, 65.5)]
)
def test_a_picture_is_moved_as_scipy_moves_it(offset):
    picture = np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)
    right, down = offset
    expected = scipy.ndimage.shift(picture.astype(float), (down, right, 0), order=1, mode="grid-constant", cval=0)
    assert np.abs(moved(picture, np.array(offset, float)) - expected).max() <= 0.51


def test_camera_jitter_moves_robot_and_video_together_and_nothing_but_the_picture():
    steady, shaken = (variant(name) for name in ("video_background", "video_background_camera_jitter"))
    for a, b in zip(play(steady, 4), play(shaken, 4), strict=True):
        offset = b.info["factors"]["camera_offset"]
        np.testing.assert_array_equal(b.observation, moved(a.observation, offset))
        assert not (a.observation == b.observation).all()


def test_camera_jitter_needs_no_video():
    steady, shaken = (variant(name) for name in ("none", "camera_jitter"))
    for a, b in zip(play(steady, 4), play(shaken, 4), strict=True):
        np.testing.assert_array_equal(b.observation, moved(a.observation, b.info["factors"]["camera_offset"]))


def test_the_camera_starts_anew_in_each_episode_and_rests_on_its_last_step():
    world = CameraJitter(Counter(), strength=1.0, image_size=64, rng=np.random.default_rng(0))  # type: ignore[arg-type]
    offsets = []
    for _ in range(3):
        world.reset()
        offsets.append(world.factors()["camera_offset"])
        for _ in range(4):
            world.step(np.zeros(1))
            offsets.append(world.factors()["camera_offset"])
    steps = np.linalg.norm(np.diff(offsets, axis=0), axis=-1)
    assert (steps.reshape(-1)[[3, 8, 13]] == 0).all()  # the last step of each
    assert (np.delete(steps, [3, 8, 13]) > 0).all()
    assert (steps[[4, 9]] > 2 * np.delete(steps, [3, 4, 8, 9, 13]).max()).all()


def test_what_the_camera_no_longer_sees_is_black_and_background():
    world = CameraJitter(Counter(), strength=1.0, image_size=2, rng=np.random.default_rng(0))  # type: ignore[arg-type]
    world.reset()
    world._walk.position = np.array([-1, 0]) / world._scale  # the camera turns right: all moves a pixel to the left
    picture = world.render()
    np.testing.assert_array_equal(picture.background, [[False, True], [True, True]])
    assert (picture.rgb == 0).all()


def test_the_mask_of_the_robot_moves_with_the_camera():
    steady, shaken = (variant(name) for name in ("video_background", "video_background_camera_jitter"))
    for env in (steady, shaken):
        play(env, 3)
    mask, there = shaken.robot_mask(), steady.robot_mask()
    assert mask is not None and there is not None
    offset = shaken._world.factors()["camera_offset"]
    expected = scipy.ndimage.shift(there.astype(float), offset[::-1], order=1, mode="grid-constant", cval=0)
    clear = np.abs(expected - 0.5) > 0.01
    np.testing.assert_array_equal(mask[clear], expected[clear] > 0.5)
    assert (mask != there).any()


def test_one_physics_is_seen_under_other_noise_of_every_part():
    seen = {}
    for name in ("all", "camera_jitter"):
        env = variant(name)
        for noise in (1, 2):
            env.seed(7, noise=noise)
            seen[name, noise] = [step.info["factors"] for step in play(env, 3)]
    for one, other in zip(seen["all", 1], seen["all", 2], strict=True):
        np.testing.assert_array_equal(one["position"], other["position"])
        for factor in ("video_frame", "video_brightness", "sensor_noise", "camera_offset"):
            assert (one[factor] != other[factor]).any(), factor
    for whole, alone in zip(seen["all", 1], seen["camera_jitter", 1], strict=True):
        np.testing.assert_array_equal(whole["camera_offset"], alone["camera_offset"])


EGL = """
import sys
import numpy as np
from environments import build, play
step = play(build(backend="egl", noisy_sensor=True, camera_jitter=True), 5)[-1]
np.savez(sys.argv[1], observation=step.observation, reward=step.reward, **step.info["factors"])
"""


@pytest.mark.skipif(not backend.works("egl"), reason="no EGL here")
def test_noise_is_the_same_under_opengl(tmp_path):
    """In a process of its own, as dm_control takes up OpenGL once."""
    command = [sys.executable, "-c", EGL, str(tmp_path / "egl.npz")]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parent)
    step, egl = play(build(noisy_sensor=True, camera_jitter=True), 5)[-1], np.load(tmp_path / "egl.npz")
    assert step.reward == egl["reward"]
    for name, value in step.info["factors"].items():
        np.testing.assert_array_equal(value, egl[name], err_msg=name)
    assert np.abs(step.observation.astype(int) - egl["observation"]).mean() < 2.5


# Reproducibility

DIGEST = """
import hashlib
from environments import build, play
found = hashlib.sha256()
for step in play(build(noisy_sensor=True, camera_jitter=True), 5):
    found.update(step.observation.tobytes() + repr(step[1:5]).encode())
    for name, value in step.info["factors"].items():
        found.update(name.encode() + value.tobytes())
print(found.hexdigest())
"""


def test_the_seed_decides_everything_in_any_process():
    command = [sys.executable, "-c", DIGEST]
    there = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parent).stdout
    found = hashlib.sha256()
    for step in play(build(noisy_sensor=True, camera_jitter=True), 5):
        found.update(step.observation.tobytes() + repr(step[1:5]).encode())
        for name, value in step.info["factors"].items():
            found.update(name.encode() + value.tobytes())
    assert there.strip() == found.hexdigest()


def test_training_and_every_evaluation_environment_differ_in_all_their_noise():
    made = [build(noisy_sensor=True, camera_jitter=True)]
    made += [build(seed=seed, split="eval", noisy_sensor=True, camera_jitter=True) for seed in (1, 2)]
    first = [env.reset().info["factors"] for env in made]
    for factor in ("position", "video_clip", "sensor_noise", "camera_offset"):
        assert len({first[i][factor].tobytes() for i in range(3)}) == 3, factor


def test_the_camera_and_the_video_are_part_of_the_state():
    env = variant("all")
    env.reset()
    before = json.dumps(env.state())
    env.reset()
    assert json.loads(before)["start"]["random"] != env.state()["start"]["random"]  # the camera's
    assert json.loads(before)["start"]["world"]["random"] == env.state()["start"]["world"]["random"]  # the video's


def test_every_part_of_noise_is_built_and_has_a_random_stream_of_its_own():
    """A new one takes its file, its line in build.py and its settings."""
    text = Path(envs_build.__file__).read_text()
    switches = [name for name, field in sections.Noise.model_fields.items() if field.annotation is bool]
    assert [name for name in switches if f'noise["{name}"]' not in text] == []
    assert OmegaConf.load(CONFIGS / "noise" / "none.yaml").keys() == sections.Noise.model_fields.keys()
    layers = {path.stem for path in Path(envs_build.__file__).with_name("noise").glob("*.py")}
    for name in layers:
        importlib.import_module(f"denoised_mdp.envs.noise.{name}")
    parts = RandomLayer.__subclasses__()
    assert [part.__name__ for part in parts if f"{part.__name__}(" not in text] == []
    root = np.random.SeedSequence(3)
    names = {*STREAMS, *(part.stream for part in parts)}
    assert len({stream(root, name).spawn_key for name in names}) == len(names)
    assert len({part.stream for part in parts}) == len(parts) >= 6


def test_the_random_streams_of_runs_made_before_are_what_they_were_and_a_new_name_has_its_own():
    root = np.random.SeedSequence(3, spawn_key=(1,))
    names = ("world", "video", "camera", "world_noise", "television", "buttons", "lights", "camera_walk")
    assert [stream(root, name).spawn_key for name in names] == [(1, number) for number in range(8)]
    assert stream(root, "fog").spawn_key == (1, zlib.crc32(b"fog"))
